"""Which parameters step alike.

grouped           all parameters of a module that are trained, as groups for an optimizer
hidden_matrices   the matrices in the layers
refuse_unknown    training ends if settings name parameters that a model does not have
patterns_that_fit    without what names none: a compressed model may lack some
"""

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from costopt.schema.optimization import Optimizer, ParameterGroup
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel

_SHOWN = 5
"""Names that an error gives as examples."""


def grouped(settings: Optimizer, module: nn.Module, *, apart: Collection[str]) -> list[dict[str, Any]]:
    """Groups of parameters, each with its `params`, `weight_decay` and `rate_factor`.

    Parameters whose names are in `apart` have groups of their own, which are `hidden`.
    """
    tied = module.tied if isinstance(module, LayeredModel) else {}
    groups: dict[tuple[object, ...], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        # The last stage of a pipeline has a copy of a tied matrix, which must step as the matrix does.
        own = _group_of(settings, tied.get(name, name))
        decays, factor, hidden = parameter.dim() >= 2, float(own.learning_rate_factor), name in apart
        decay = float(settings.weight_decay if own.weight_decay is None else own.weight_decay)
        if own.weight_decay is None and not decays:
            decay = 0.0
        # One kernel takes parameters of one kind: plain, or shared out over the same ranks.
        key = (not decays, hidden, decay, factor, getattr(parameter, "device_mesh", None))
        group = {"params": [], "weight_decay": decay, "rate_factor": factor, "hidden": hidden}
        groups.setdefault(key, group)["params"].append(parameter)
    in_order = sorted(groups.items(), key=lambda item: bool(item[0][0]))  # matrices first
    return [group for _, group in in_order]


def _group_of(settings: Optimizer, name: str) -> ParameterGroup:
    for group in settings.groups or ():
        if any(fnmatchcase(name, pattern) for pattern in group.parameters):
            return group
    return ParameterGroup(parameters=["*"])


def refuse_unknown(settings: Optimizer, model: nn.Module) -> None:
    """Raise NotRetryable("InvalidSettings") for a pattern that no trained parameter of the whole model matches."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in (pattern for group in settings.groups or () for pattern in group.parameters):
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:: -(-len(names) // _SHOWN)])
            raise NotRetryable(
                "InvalidSettings",
                f"optimizer.groups must name parameters that are trained, and none is like {pattern}: they have names "
                f"such as {shown}",
            )


def patterns_that_fit(settings: Optimizer, model: nn.Module) -> list[ParameterGroup] | None:
    """The groups of `settings` that name parameters of `model`, without patterns that name none; None if none does."""
    names = [name for name, _ in model.named_parameters()]

    def fits(pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in names)

    groups = [
        group.model_copy(update={"parameters": fitting})
        for group in settings.groups or ()
        if (fitting := [pattern for pattern in group.parameters if fits(pattern)])
    ]
    return groups or None


def hidden_matrices(module: nn.Module) -> set[str]:
    """The names of the matrices in the layers of a model, or a piece of one; not of embeddings there."""
    layers = module.blocks() if isinstance(module, LayeredModel) else [module]
    within = {
        parameter
        for layer in layers
        for part in layer.modules()
        if not isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
        if parameter.dim() == 2
    }
    return {name for name, parameter in module.named_parameters() if parameter in within}
