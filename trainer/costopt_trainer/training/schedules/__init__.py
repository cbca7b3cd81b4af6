"""Learning-rate schedules: a new one is a word (and its settings) in the schema, a file here, and a row in the table.

cosine       warm-up, then a cosine

SCHEDULES    the word in the manifest -> where its RateSchedule is
RateSchedule         what each row fulfils
learning_rate        recipe and step -> rate
"""

from typing import Protocol

from costopt.schema.optimization import Schedule
from costopt.schema.recipe import Recipe
from costopt_trainer.tables import row

SCHEDULES: dict[str, str] = {
    "Cosine": "costopt_trainer.training.schedules.cosine:cosine",
}
"""Imported when a recipe names it."""


class RateSchedule(Protocol):
    """The learning rate of a step, from nothing but its arguments: a resumed training asks again."""

    def __call__(self, settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
        """Rate of `step`, from 1 to `total_steps`; `peak` is optimizer.learningRate."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step, counted from 1."""
    schedule: RateSchedule = row(SCHEDULES, recipe.schedule.type)
    peak = float(recipe.optimizer.learning_rate)
    return schedule(recipe.schedule, peak=peak, total_steps=recipe.total_steps, step=step)
