"""Linear warm-up, then one rate, which is lowered whenever the validation loss no longer falls.

plateau      the rate as long as it was never lowered
lowered      the rate after it was lowered a number of times
Plateau      what is to be known of the evaluations so far
after_evaluation    the same, one evaluation later
"""

from costopt.schema.base import Count, Figure, Strict
from costopt.schema.optimization import ReduceOnPlateau, Schedule
from costopt_trainer.training.patience import Patience


class Plateau(Strict):
    """State of a ReduceOnPlateau schedule; part of a checkpoint."""

    patience: Patience = Patience()
    """Of the evaluations since the rate was last lowered."""
    reductions: Count = 0
    """How often the rate was lowered."""


def plateau(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
    """Up linearly to `peak` at warmupSteps, and there it stays."""
    del total_steps
    return peak * step / settings.warmup_steps if step <= settings.warmup_steps else peak


def lowered(settings: Schedule, rate: float, reductions: int) -> float:
    """`rate` after that many reductions, not below minLearningRate; a rate that is below it already stays, and so does
    that of another schedule."""
    if settings.type != "ReduceOnPlateau" or not reductions:
        return rate
    factor = float((settings.reduce_on_plateau or ReduceOnPlateau()).factor)
    return min(rate, max(rate * factor**reductions, float(settings.min_learning_rate)))


def after_evaluation(settings: Schedule, before: Plateau, step: int, validation_loss: Figure) -> Plateau:
    """The state after the evaluation of `step`. Those of the warm-up are compared with, but not counted."""
    own = settings.reduce_on_plateau or ReduceOnPlateau()
    seen = before.patience.after(step, validation_loss, own.least_improvement)
    if step <= settings.warmup_steps:
        return Plateau(patience=seen.begun_anew(), reductions=before.reductions)
    if seen.waited < own.patience_evaluations:
        return Plateau(patience=seen, reductions=before.reductions)
    return Plateau(patience=seen.begun_anew(), reductions=before.reductions + 1)
