"""What was decided because of evaluations and gradients: part of a checkpoint, the same on all ranks, after any kill.

Decisions    what is to be known of all evaluations, and of the measured gradients, so far
decided      the same, one evaluation later; is_over: whether training ends for it
report_of    what people and programs are told; in_words: what was decided, for the log
decisions_of, fault_of_decisions    read from a checkpoint's state

A checkpoint that is saved before its step's evaluation holds the decisions before it. A resume takes them and the
figures of that evaluation, read or computed anew, and so comes to what the training itself had come to.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from costopt.schema.base import Figure, Strict
from costopt.schema.early_stopping import EarlyStoppingReport
from costopt.schema.recipe import Recipe
from costopt_trainer.training import early_stopping
from costopt_trainer.training.early_stopping import Course
from costopt_trainer.training.measures import measure_of
from costopt_trainer.training.noise_scale import NoiseScale
from costopt_trainer.training.schedules import plateau as schedule
from costopt_trainer.training.schedules.plateau import Plateau

NAME = "decisions"
"""Of what a checkpoint's state has of it. Checkpoints of earlier versions have none."""


class Decisions(Strict):
    """What follows from the evaluations so far."""

    plateau: Plateau = Plateau()
    """How often the learning rate was lowered, and why not yet again."""
    batch: NoiseScale = NoiseScale()
    """What is known of the best size of a global batch, and which was chosen."""
    early_stopping: Course = Course()
    """What is best so far, and whether training is over."""


def decided(recipe: Recipe, before: Decisions, step: int, figures: Mapping[str, Any]) -> Decisions:
    """The decisions after the evaluation of `step`; `figures` as `evaluation.json` has them."""
    loss: Figure = figures["validationLoss"]
    changes: dict[str, Any] = {}
    if recipe.schedule.type == "ReduceOnPlateau":
        changes["plateau"] = schedule.after_evaluation(recipe.schedule, before.plateau, step, loss)
    if recipe.early_stopping is not None:
        changes["early_stopping"] = early_stopping.after_evaluation(
            recipe.early_stopping, before.early_stopping, step, figures
        )
    return before.model_copy(update=changes)


def is_over(recipe: Recipe, decisions: Decisions) -> bool:
    """Whether no step is to be taken any more because of evaluations."""
    return early_stopping.has_ended(recipe.early_stopping, decisions.early_stopping)


def report_of(recipe: Recipe, decisions: Decisions) -> EarlyStoppingReport | None:
    """What is reported of how far the training is from its end."""
    return early_stopping.report_of(recipe.early_stopping, decisions.early_stopping, recipe.steps)


def in_words(recipe: Recipe, before: Decisions, now: Decisions, step: int) -> list[str]:
    """What was decided by the evaluation of `step`, for the log."""
    lines = []
    if now.plateau.reductions > before.plateau.reductions:
        rate = schedule.lowered(recipe.schedule, float(recipe.optimizer.learning_rate), now.plateau.reductions)
        lines.append(f"the validation loss of step {step} is no improvement: the learning rate is now {rate:.6g}")
    if is_over(recipe, now) and step < recipe.steps:
        seen = now.early_stopping.patience
        lines.append(
            f"training ends at step {step} of {recipe.steps}: {seen.waited} evaluations in a row are no "
            f"improvement; the best is that of step {seen.best_step}, {measure_of(recipe).words} {seen.best}"
        )
    return lines


def decisions_of(state: Mapping[str, Any]) -> Decisions:
    """Those in a checkpoint's state. Raises ValidationError if they are invalid."""
    return Decisions.model_validate(state.get(NAME, {}))


def fault_of_decisions(state: Mapping[str, Any]) -> str | None:
    """What is wrong with those in a checkpoint's state, in words; None if nothing is."""
    try:
        decisions_of(state)
    except ValidationError:
        return f"{NAME} must be those of a training"
    return None
