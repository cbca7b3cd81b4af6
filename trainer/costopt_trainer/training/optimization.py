"""AdamW as the recipe sets it: what it decays, at which rate each step is taken, and its state by name.

make_optimizer          parameters -> AdamW
learning_rate           warm-up and cosine, a function of the step
named_optimizer_state, load_optimizer_state     for checkpoints, which know parameters by name
"""

from collections.abc import Mapping
from math import cos, pi

import torch
from torch import Tensor, nn

from costopt.schema.recipe import Recipe


def make_optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.AdamW:
    """AdamW over the parameters of `module`; weight decay on matrices (and larger) only, not on gains and biases."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, object]] = [
        {
            "params": [parameter for parameter in parameters if parameter.dim() >= 2],
            "weight_decay": float(recipe.optimizer.weight_decay),
        },
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (float(recipe.optimizer.beta1), float(recipe.optimizer.beta2))
    # Fused: one kernel for all parameters, which also skips the step by itself when FP16 gradients overflowed.
    return torch.optim.AdamW(groups, lr=float(recipe.optimizer.learning_rate), betas=betas, fused=True)


_MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter, beside the number of its steps."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step, counted from 1: up linearly to the peak at warmupSteps, down a cosine to the last."""
    peak, lowest = float(recipe.optimizer.learning_rate), float(recipe.schedule.min_learning_rate)
    warmup_steps = recipe.schedule.warmup_steps
    if step <= warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / (recipe.total_steps - warmup_steps)
    return lowest + (peak - lowest) * (1 + cos(pi * done)) / 2


def named_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by "<parameter>/<name>"."""
    return {
        f"{name}/{key}": tensor
        for name, parameter in module.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `named_optimizer_state` took. Raises ValueError for what it does not take: kernels do not check."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    in_order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        by_parameter.setdefault(name, {})[key] = tensor
    for name, parameter in module.named_parameters():
        taken = by_parameter.get(name, {})
        shapes = {key: parameter.shape if key in _MOMENTS else torch.Size() for key in taken}
        if taken and (
            taken.keys() != {*_MOMENTS, "step"}
            or any(not tensor.is_floating_point() or tensor.shape != shapes[key] for key, tensor in taken.items())
        ):
            raise ValueError(f"the optimizer's state of {name} is not one of AdamW")
    state = {number: by_parameter[name] for number, name in enumerate(in_order) if name in by_parameter}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
