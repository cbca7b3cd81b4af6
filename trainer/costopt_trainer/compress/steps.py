"""The table of compression steps. A new step is one function and one line here."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from costopt.schema.compression import Prune, Quantize, Step
from costopt.schema.replica import PhaseName
from costopt_trainer.compress.prune import prune
from costopt_trainer.compress.quantize import quantize
from costopt_trainer.phases import phase

Settings = TypeVar("Settings", Quantize, Prune)


def _quantize(model: nn.Module, step: Step, _example: Tensor) -> str:
    return quantize(model, _given(step.quantize))


def _prune(model: nn.Module, step: Step, example: Tensor) -> str:
    return prune(model, _given(step.prune), example)


STEPS: Mapping[str, Callable[[nn.Module, Step, Tensor], str]] = {
    "Quantize": _quantize,
    "Prune": _prune,
}
"""From a step's type to what it does to the model, in place, answering with a line for the log.

The third argument is a batch of inputs, to trace layers with.
"""


_PHASES: Mapping[str, PhaseName] = {"Quantize": "Quantizing", "Prune": "Pruning"}


def apply_steps(model: nn.Module, steps: Sequence[Step], example: Tensor) -> list[str]:
    """Apply `steps` in order to `model`, in place; returns a line about each.

    Raises NotRetryable("InvalidSettings") if one cannot be applied to this model.
    """
    lines = []
    for step in steps:
        with phase(_PHASES[step.type]):
            lines.append(STEPS[step.type](model, step, example))
    return lines


def _given(settings: Settings | None) -> Settings:
    # The schema demands the settings that the type names.
    if settings is None:
        raise ValueError("a step must have the settings that its type names")
    return settings


def changes_widths(steps: Sequence[Step]) -> bool:
    """Whether any of `steps` makes matrices smaller."""
    return any(step.prune is not None and step.prune.structure == "Structured" for step in steps)


def wants_speed(steps: Sequence[Step]) -> bool:
    """Whether being faster is what `steps` are for: weights alone in 8 bits, or zeros, make a model only smaller."""
    return changes_widths(steps) or any(
        step.quantize is not None and step.quantize.scheme == "Int8DynamicActivation" for step in steps
    )
