"""Students of a distillation: what is made of a model before it is taught.

every_other_layer    half of its layers, as DistilBERT has them (Sanh et al., arXiv 1910.01108)
lighter              a model of other settings, fewer layers or narrower ones

Both change the model in place, and say in `built_as` what its like is built from.
"""

import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from costopt.schema.base import field_key
from costopt.schema.model_family import FamilySettings
from costopt.schema.models import ModelSettings
from costopt.schema.unions import UNIONS, settings_named, with_settings
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel, stored_tensors
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

_OF_THE_DATA = "contextLength"
"""What samples are is no choice of a student."""


def every_other_layer(model: LayeredModel, shape: ModelShape) -> str:
    """Leave the first of each two layers of `model`, in place; returns what was done.

    `shape` is what it was built from. Raises NotRetryable("InvalidSettings") if it has no two layers, or none that fit
    each other.
    """
    count = len(model.blocks())
    if not model.layers_alike or count < 2:
        raise NotRetryable(
            "InvalidSettings",
            "distill.student must not be EveryOtherLayer for this model: it needs two layers at least, and such that "
            "each takes what the one before it takes",
        )
    kept = range(0, count, 2)
    model.select_layers(kept)
    named = settings_named(shape.settings)
    if isinstance(named, FamilySettings):
        fewer = named.model_copy(update={named.layers_field: len(kept)})
        model.built_as = replace(shape, settings=with_settings(shape.settings, fewer))
    return f"{len(kept)} of {count} layers"


def lighter(model: LayeredModel, shape: ModelShape, changes: Mapping[str, int]) -> str:
    """Make `model`, in place, one with `changes` of the settings it was built from; returns what was done.

    Tensors that both have in one shape begin as the model's; a layer as the model's at the same part of the depth.
    Others draw from torch's global random state. Raises NotRetryable("InvalidSettings") for settings that make no
    smaller model.
    """
    other = replace(shape, settings=made_lighter(shape.settings, changes))
    before = sum(parameter.numel() for parameter in model.parameters())
    student = build_model(other)
    after = sum(parameter.numel() for parameter in student.parameters())
    if after >= before:
        raise NotRetryable(
            "InvalidSettings",
            f"distill.lighter must make a smaller model than the one before it, which has {before:,} parameters, but "
            f"makes one of {after:,}",
        )
    taken = _begin_as(student, model)
    vars(model).clear()
    vars(model).update(vars(student))
    model.eval()
    model.built_as = other
    return f"{after:,} parameters in place of {before:,}, of which {taken:,} begin as they were"


def made_lighter(settings: ModelSettings, changes: Mapping[str, int]) -> ModelSettings:
    """`settings` with `changes`. Raises NotRetryable("InvalidSettings") for what no model of that family has."""
    named = settings_named(settings)
    if not isinstance(named, FamilySettings):
        raise NotRetryable(
            "InvalidSettings",
            f"distill.student must not be Lighter for model.type {settings.type}, which has no settings of its layers: "
            "use EveryOtherLayer, or prune it first",
        )
    [own] = (member.key for member in UNIONS[ModelSettings] if member.word == settings.type)
    numbers = [
        key
        for name, field in type(named).model_fields.items()
        if int in _kinds(field.annotation) and (key := field_key(name, field)) != _OF_THE_DATA
    ]
    if unknown := sorted(changes.keys() - set(numbers)):
        raise NotRetryable(
            "InvalidSettings",
            f"distill.lighter must be of the settings of model.{own} that are numbers and shape its layers, "
            f"{', '.join(numbers)}, and not {', '.join(unknown)}",
        )
    try:
        changed = type(named).model_validate({**named.to_plain(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        told = first["msg"].removeprefix("Value error, ")
        raise NotRetryable(
            "InvalidSettings", f"distill.lighter: {f'{where}: ' if where else ''}{told} (of model.{own})"
        ) from error
    return with_settings(settings, changed)


def _kinds(annotation: Any) -> set[Any]:
    """The types of a field, without their bounds."""
    kinds = typing.get_args(annotation) or (annotation,)
    return {getattr(kind, "__origin__", kind) for kind in kinds}


@torch.no_grad()
def _begin_as(student: LayeredModel, model: LayeredModel) -> int:
    """Copy what both have in one shape; returns how many numbers that are."""
    of_student, of_model = len(student.layers), len(model.layers)
    tensors = stored_tensors(model)
    taken = 0
    for name, tensor in stored_tensors(student).items():
        begun = tensors.get(_beside(name, of_student, of_model))
        if isinstance(begun, Tensor) and begun.shape == tensor.shape and tensor.is_floating_point():
            tensor.copy_(begun)
            taken += tensor.numel()
    return taken


def _beside(name: str, of_student: int, of_model: int) -> str:
    """The name that a student's tensor has in the model, whose layers are more."""
    if not name.startswith("layers."):
        return name
    _, layer, rest = name.split(".", 2)
    return f"layers.{int(layer) * of_model // of_student}.{rest}"
