"""Ending a training when evaluations no longer improve: decided by nothing but their figures.

Course             what is to be known of the evaluations so far
after_evaluation   the same, one evaluation later
has_ended          whether training is over because of them
restores_best      whether the trained model is that of the best one
report_of          what people and programs are told
"""

from collections.abc import Mapping
from typing import Any

from costopt.schema.base import Count, Strict
from costopt.schema.early_stopping import EarlyStopping, EarlyStoppingReport, StoppingMetric
from costopt.schema.recipe import Recipe
from costopt_trainer.training.measures import MEASURES
from costopt_trainer.training.patience import Patience


class Course(Strict):
    """State of an early stopping; part of a checkpoint."""

    metric: StoppingMetric | None = None
    """What was compared. None: nothing was yet."""
    patience: Patience = Patience()
    """Of the evaluations so far."""
    stopped_at: Count | None = None
    """Step of the evaluation after which training was over. None: it was not."""


def after_evaluation(settings: EarlyStopping, before: Course, step: int, figures: Mapping[str, Any]) -> Course:
    """The state after the evaluation of `step`; what was seen of another metric does not count."""
    measure = MEASURES[settings.metric]
    so_far = before.patience if before.metric == settings.metric else Patience()
    seen = so_far.after(step, measure.of(figures), settings.least_improvement, lower_is_better=measure.lower_is_better)
    is_over = seen.waited >= settings.patience_evaluations
    return Course(metric=settings.metric, patience=seen, stopped_at=step if is_over else None)


def has_ended(settings: EarlyStopping | None, course: Course) -> bool:
    """Whether training is over. A later attempt that was given more patience, or no early stopping, goes on."""
    return (
        settings is not None
        and course.stopped_at is not None
        and course.metric == settings.metric
        and course.patience.waited >= settings.patience_evaluations
    )


def restores_best(recipe: Recipe) -> bool:
    """Whether the trained model is that of the best evaluation."""
    return recipe.early_stopping is not None and recipe.early_stopping.restore_best


def report_of(settings: EarlyStopping | None, course: Course, total_steps: int) -> EarlyStoppingReport | None:
    """What is reported; a training whose last step was to be taken anyway has not stopped early. None: nothing is."""
    if settings is None or course.metric is None or course.patience.best is None:
        return None
    ended = has_ended(settings, course) and course.stopped_at != total_steps
    return EarlyStoppingReport(
        metric=course.metric,
        best=course.patience.best,
        best_step=course.patience.best_step,
        evaluations_waited=course.patience.waited,
        stopped_at_step=course.stopped_at if ended else None,
    )
