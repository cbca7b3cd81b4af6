"""Models that a function of the user's own package makes.

Our processes find only what is installed (costopt/isolation.py), so the package is installed where the job trains, or
its folder is named and searched last: nothing of ours is ever taken from it.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from costopt.schema import foreign_models as language
from costopt_trainer.errors import NotRetryable, first_line, memory_reason
from costopt_trainer.models.family import ModelFamily
from costopt_trainer.models.own_metrics import NO_METRICS, OwnMetrics
from costopt_trainer.models.shape import ModelShape, Widths
from costopt_trainer.models.whole import WholeModel


class ImportedModel(WholeModel):
    """A whole model; a pipeline cannot cut it. Its own `loss_sum(inputs, targets)` is used if it has one."""

    called = "an imported model"
    weights_prefix = "model."

    def __init__(self, model: nn.Module, own_metrics: OwnMetrics = NO_METRICS) -> None:
        super().__init__()
        self.model, self.own_metrics = model, own_metrics

    @property
    def has_own_loss(self) -> bool:
        return getattr(self.model, "loss_sum", None) is not None

    def loss_sum(self, inputs: Tensor, targets: Tensor) -> Tensor:
        own = getattr(self.model, "loss_sum", None)
        loss: Tensor = super().loss_sum(inputs, targets) if own is None else own(inputs, targets)
        return loss

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, ...) -> logits (B, ..., K)."""
        logits: Tensor = self.model(inputs)
        return logits


class ImportFamily:
    """A row of the table: see ModelFamily."""

    may_change = frozenset({"path"})

    def context_length(self, settings: language.Import) -> int | None:
        return None if settings.data == "Images" else settings.context_length

    def build(self, settings: language.Import, shape: ModelShape, widths: Widths) -> ImportedModel:
        if shape.vocabulary_size is None and shape.image_shape is None:
            raise ValueError("the shape of an Import must give what the data tells")
        if widths:
            raise ValueError("an imported model has no widths that could change")
        of_data = {
            "vocabulary_size": shape.vocabulary_size,
            "num_classes": shape.num_classes,
            "image_shape": shape.image_shape,
            "pad_id": shape.pad_id,
            "context_length": self.context_length(settings),
        }
        told = {name: value for name, value in of_data.items() if value is not None}
        make = _function(settings)
        try:
            takes = inspect.signature(make).parameters
            takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
            given = {name: value for name, value in told.items() if takes_any or name in takes}
            made = make(**{**given, **(settings.arguments or {})})
        except (Exception, SystemExit) as error:
            if memory_reason([kind.__name__ for kind in type(error).__mro__], str(error)) is not None:
                raise
            raise _wrong(settings, f"must return a model, but raises {_told(error)}") from error
        model, metrics = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
        if not isinstance(model, nn.Module):
            raise _wrong(settings, f"must return a torch.nn.Module, but returns a {type(model).__name__}")
        return ImportedModel(model, OwnMetrics.of(metrics, _called(settings)))


def _function(settings: language.Import) -> Callable[..., Any]:
    module, _, name = settings.function.partition(":")
    if settings.path is not None and (folder := str(Path(settings.path).absolute())) not in sys.path:
        sys.path.append(folder)
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise _wrong(settings, f"must be importable, but importing {module} raises {_told(error)}") from error
        raise _wrong(
            settings,
            f"must be installed where the job trains, but there is no module {error.name}: install its package in the "
            "image, or name its folder in model.import.path (PYTHONPATH is not obeyed)",
        ) from error
    except (Exception, SystemExit) as error:
        # Whatever the user's own code does while it is imported.
        raise _wrong(settings, f"must be importable, but importing {module} raises {_told(error)}") from error
    if not callable(function):
        raise _wrong(settings, f"must name a function, but {module} has none of the name {name}")
    return function


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}".rstrip(": ")


def _called(settings: language.Import) -> str:
    return f"model.import.function: {settings.function}"


def _wrong(settings: language.Import, what: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", f"{_called(settings)} {what}")


FAMILY: ModelFamily = ImportFamily()
