"""Optimizers: a new one is a class of settings in the schema, a file here, and a row in the table.

factory      what each row fulfils
groups       which parameters step alike
adam_w, sgd, lion, adafactor, muon, adam_w8bit     one file each

OPTIMIZERS   the word in the manifest -> where its OptimizerFactory is
refuse_unfit         whether settings suit a model
make_optimizer       settings and module -> optimizer; set_rate: before each step
kept_by              what it will keep
named_optimizer_state, load_optimizer_state     for checkpoints, which know parameters by name
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from costopt.schema.optimization import Optimizer
from costopt_trainer.errors import NotRetryable
from costopt_trainer.tables import row
from costopt_trainer.training.optimizers.factory import Kept, OptimizerFactory
from costopt_trainer.training.optimizers.groups import grouped, hidden_matrices, refuse_unknown

OPTIMIZERS: dict[str, str] = {
    "AdamW": "costopt_trainer.training.optimizers.adam_w:FACTORY",
    "SGD": "costopt_trainer.training.optimizers.sgd:FACTORY",
    "Lion": "costopt_trainer.training.optimizers.lion:FACTORY",
    "Adafactor": "costopt_trainer.training.optimizers.adafactor:FACTORY",
    "Muon": "costopt_trainer.training.optimizers.muon:FACTORY",
    "AdamW8bit": "costopt_trainer.training.optimizers.adam_w8bit:FACTORY",
}
"""Imported when a recipe names it."""


def factory_of(settings: Optimizer) -> OptimizerFactory:
    """The row of the optimizer that `settings` name."""
    factory: OptimizerFactory = row(OPTIMIZERS, settings.type)
    return factory


def make_optimizer(settings: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """An optimizer of all parameters of `module` that are trained, in the groups that `settings` ask for.

    Weight decay is for matrices (and larger) only, not for gains and biases, unless a group says otherwise.
    """
    factory = factory_of(settings)
    apart = hidden_matrices(module) if factory.splits_hidden else ()
    return factory.make(settings, grouped(settings, module, apart=apart))


def refuse_unfit(settings: Optimizer, model: nn.Module) -> None:
    """Raise NotRetryable("InvalidSettings") if the whole `model` lacks what `settings` want to step."""
    refuse_unknown(settings, model)
    if factory_of(settings).splits_hidden and not hidden_matrices(model):
        raise NotRetryable(
            "InvalidSettings",
            f"optimizer.type must not be {settings.type}, which steps the matrices in a model's layers: this model has "
            "none; use AdamW",
        )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Have the next step taken with a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def kept_by(settings: Optimizer, module: nn.Module) -> dict[str, Mapping[str, Kept]]:
    """What will be kept of each parameter that is trained, by its name."""
    factory, hidden = factory_of(settings), hidden_matrices(module)
    return {
        name: factory.kept(settings, parameter, hidden=name in hidden)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def named_optimizer_state(
    settings: Optimizer, module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """The optimizer's tensors by "<parameter>/<name>"."""
    factory = factory_of(settings)
    return {
        f"{name}/{key}": tensor
        for name, parameter in module.named_parameters()
        for key, tensor in factory.tensors_of(optimizer.state.get(parameter, {})).items()
    }


def load_optimizer_state(
    settings: Optimizer, module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `named_optimizer_state` took. Raises ValueError for what it does not take: kernels do not check."""
    factory, kept = factory_of(settings), kept_by(settings, module)
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        by_parameter.setdefault(name, {})[key] = tensor
    states: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        taken = by_parameter.get(name)
        if taken is None:
            continue
        if {key: Kept(tensor.shape, tensor.dtype) for key, tensor in taken.items()} != kept.get(name, {}):
            raise ValueError(f"the optimizer's state of {name} is not one of {settings.type}")
        states[name] = factory.state_of(parameter, taken)
    names = {parameter: name for name, parameter in module.named_parameters()}
    in_order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {number: states[name] for number, name in enumerate(in_order) if name in states}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
