"""The table of compression steps: a new one is a settings class, a file, and a row here.

STEPS               the manifest's word -> its CompressionStep
apply_steps         all steps of a variant, in order
changes_shapes, wants_speed, wants_compile, trains      whether any of them does; step_trains: whether one does
quality_drop_percent    what all of them together may lose, unless the user says otherwise
"""

from collections.abc import Callable, Sequence
from decimal import Decimal

from costopt.schema.compression import Step
from costopt.schema.unions import settings_named
from costopt_trainer.compress.step import CompressionStep, StepRun
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.phases import Pieces, phase
from costopt_trainer.tables import row

STEPS: dict[str, str] = {
    "Quantize": "costopt_trainer.compress.quantize:STEP",
    "Prune": "costopt_trainer.compress.prune:STEP",
    "FineTune": "costopt_trainer.compress.fine_tune:STEP",
    "Distill": "costopt_trainer.compress.distill:STEP",
    "LowRank": "costopt_trainer.compress.low_rank:STEP",
    "ShareWeights": "costopt_trainer.compress.share_weights:STEP",
    "External": "costopt_trainer.compress.external:STEP",
}
"""Imported when a variant has such a step: torchao alone takes seconds."""


def step_of(step: Step) -> CompressionStep:
    """How the step does its work."""
    kind: CompressionStep = row(STEPS, step.type)
    return kind


def apply_steps(model: LayeredModel, steps: Sequence[Step], run: Callable[[int, Pieces], StepRun]) -> list[str]:
    """Apply `steps` in order to `model`, in place; returns a line about each.

    `run` gives what the step with a number, from 1, may use. Raises NotRetryable("InvalidSettings") if one cannot be
    applied to this model.
    """
    lines = []
    for number, step in enumerate(steps, start=1):
        kind = step_of(step)
        with phase(kind.phase) as pieces:
            lines.append(kind.apply(model, settings_named(step), run(number, pieces)))
    return lines


def trains(steps: Sequence[Step]) -> bool:
    """Whether any of `steps` takes optimizer steps."""
    return any(step_trains(step) for step in steps)


def step_trains(step: Step) -> bool:
    """Whether `step` takes optimizer steps: of a kind that may, its settings can say that it does not."""
    return step_of(step).trains and bool(getattr(settings_named(step), "trains", True))


def changes_shapes(steps: Sequence[Step]) -> bool:
    """Whether any of `steps` makes matrices smaller."""
    return any(step_of(step).changes_shapes(settings_named(step)) for step in steps)


def wants_speed(steps: Sequence[Step]) -> bool:
    """Whether speed is the purpose of any of `steps`."""
    return any(step_of(step).wants_speed(settings_named(step)) for step in steps)


def wants_compile(steps: Sequence[Step]) -> bool:
    """Whether any of `steps` is only fast under an engine with kernels for it."""
    return any(step_of(step).wants_compile(settings_named(step)) for step in steps)


def quality_drop_percent(steps: Sequence[Step]) -> Decimal:
    """Percent of the quality that `steps` may lose together, if the user does not say."""
    return sum((step_of(step).quality_drop_percent for step in steps), Decimal(0))
