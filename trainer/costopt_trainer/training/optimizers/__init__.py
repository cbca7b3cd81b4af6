"""Optimizers: a new one is a class of settings in the schema, a file here, and a row in the table.

factory      what each row fulfils
adam_w       AdamW

OPTIMIZERS   the word in the manifest -> where its OptimizerFactory is
make_optimizer       settings and module -> optimizer
state_shapes         what it will keep
named_optimizer_state, load_optimizer_state     for checkpoints, which know parameters by name
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from costopt.schema.optimization import Optimizer
from costopt_trainer.tables import row
from costopt_trainer.training.optimizers.factory import OptimizerFactory

OPTIMIZERS: dict[str, str] = {
    "AdamW": "costopt_trainer.training.optimizers.adam_w:FACTORY",
}
"""Imported when a recipe names it."""


def factory_of(settings: Optimizer) -> OptimizerFactory:
    """The row of the optimizer that `settings` name."""
    factory: OptimizerFactory = row(OPTIMIZERS, settings.type)
    return factory


def make_optimizer(settings: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """An optimizer of all parameters of `module`; weight decay on matrices (and larger) only, not on gains and biases.

    It takes each step with the `lr` that its groups have then.
    """
    groups: dict[tuple[bool, object], dict[str, Any]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            # One kernel takes parameters of one kind: plain, or shared out over the same ranks.
            decays, ranks = parameter.dim() >= 2, getattr(parameter, "device_mesh", None)
            decay = float(settings.weight_decay) if decays else 0.0
            groups.setdefault((not decays, ranks), {"params": [], "weight_decay": decay})["params"].append(parameter)
    in_order = sorted(groups.items(), key=lambda item: item[0][0])  # matrices first
    return factory_of(settings).make(settings, [group for _, group in in_order])


def state_shapes(settings: Optimizer, module: nn.Module) -> list[Mapping[str, torch.Size]]:
    """Name and shape of what will be kept of each parameter that is trained."""
    factory = factory_of(settings)
    return [factory.state_shapes(parameter) for parameter in module.parameters() if parameter.requires_grad]


def named_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by "<parameter>/<name>"."""
    return {
        f"{name}/{key}": tensor
        for name, parameter in module.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    settings: Optimizer, module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `named_optimizer_state` took. Raises ValueError for what it does not take: kernels do not check."""
    factory = factory_of(settings)
    names = {parameter: name for name, parameter in module.named_parameters()}
    in_order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        by_parameter.setdefault(name, {})[key] = tensor
    for name, parameter in module.named_parameters():
        taken = by_parameter.get(name, {})
        shapes = factory.state_shapes(parameter)
        if taken and (
            taken.keys() != shapes.keys()
            or any(not tensor.is_floating_point() or tensor.shape != shapes[key] for key, tensor in taken.items())
        ):
            raise ValueError(f"the optimizer's state of {name} is not one of {settings.type}")
    state = {number: by_parameter[name] for number, name in enumerate(in_order) if name in by_parameter}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
