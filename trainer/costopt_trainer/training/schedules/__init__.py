"""Learning-rate schedules: a new one is a word (and its settings) in the schema, a file here, and a row in the table.

warm_up      how most of them begin
cosine       warm-up, then a cosine; linear: then a straight line; constant: then nothing
warmup_stable_decay    warm-up, one rate, and a short decay
one_cycle    a long rise and a long fall
plateau      warm-up, then one rate, lowered as the evaluations have it

SCHEDULES    the word in the manifest -> where its RateSchedule is
RateSchedule         what each row fulfils
learning_rate        recipe, step and how often it was lowered -> rate
"""

from typing import Protocol

from costopt.schema.optimization import Schedule
from costopt.schema.recipe import Recipe
from costopt_trainer.tables import row
from costopt_trainer.training.schedules.plateau import lowered

SCHEDULES: dict[str, str] = {
    "Cosine": "costopt_trainer.training.schedules.cosine:cosine",
    "Linear": "costopt_trainer.training.schedules.linear:linear",
    "Constant": "costopt_trainer.training.schedules.constant:constant",
    "WarmupStableDecay": "costopt_trainer.training.schedules.warmup_stable_decay:warmup_stable_decay",
    "OneCycle": "costopt_trainer.training.schedules.one_cycle:one_cycle",
    "ReduceOnPlateau": "costopt_trainer.training.schedules.plateau:plateau",
}
"""Imported when a recipe names it."""


class RateSchedule(Protocol):
    """The learning rate of a step, from nothing but its arguments: a resumed training asks again."""

    def __call__(self, settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
        """Rate of `step`, from 1 to `total_steps`; `peak` is optimizer.learningRate."""


def learning_rate(recipe: Recipe, step: int, reductions: int = 0) -> float:
    """Learning rate of a step, counted from 1. `reductions`: how often ReduceOnPlateau has lowered it before."""
    schedule: RateSchedule = row(SCHEDULES, recipe.schedule.type)
    peak = float(recipe.optimizer.learning_rate)
    rate = schedule(recipe.schedule, peak=peak, total_steps=recipe.steps, step=step)
    return lowered(recipe.schedule, rate, reductions)
