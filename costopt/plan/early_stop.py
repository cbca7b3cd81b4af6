"""What is said of a training that stopped early: what it came to, and what that saved against the plan.

early_stopped    what it came to, as its progress has it
with_savings     the same with what was saved, at the pace and prices of a bill
in_words         for a condition's message
"""

from decimal import Decimal

from costopt.accounting.exact import total
from costopt.accounting.savings import saved_by
from costopt.schema.base import plain
from costopt.schema.job import JobSpec
from costopt.schema.replica import Progress
from costopt.schema.status import Bill, EarlyStopped, JobStatus, StageStatus


def early_stopped(spec: JobSpec, training: StageStatus | None, progress: Progress | None) -> EarlyStopped | None:
    """None unless training has succeeded before its last step. What that saved is not in it yet."""
    recipe, told = spec.recipe, progress.early_stopping if progress else None
    if (
        progress is None
        or training is None
        or training.state != "Succeeded"
        or recipe is None
        or recipe.early_stopping is None
        or told is None
    ):
        return None
    stopped_at = told.stopped_at_step
    # How many steps a number of epochs is, only the training knows.
    total_steps = progress.total_steps if recipe.total_steps is None else recipe.total_steps
    if stopped_at is None or stopped_at >= total_steps:
        return None
    return EarlyStopped(
        metric=told.metric,
        best=told.best,
        best_step=told.best_step,
        model_step=told.model_step,
        stopped_at_step=stopped_at,
        total_steps=total_steps,
        steps_saved=total_steps - stopped_at,
    )


def with_savings(status: JobStatus, bill: Bill | None) -> EarlyStopped | None:
    """What the status says of an early stop, with what that has saved if `bill` is right."""
    stopped = status.early_stopped
    if stopped is None:
        return None
    # What an earlier job of the same storage has trained is not in the bill.
    taken = stopped.stopped_at_step - (status.continues_from_step or 0)
    hours = saved_by(bill.lines if bill else [], taken, stopped.steps_saved)
    costs = [Decimal(each.list_cost) for each in hours if each.list_cost is not None]
    known = bool(hours) and len(costs) == len(hours)
    savings = {
        "hours_saved": hours,
        "list_cost_saved": plain(total(costs)) if known else None,
        "currency": bill.currency if bill and known else None,
    }
    return stopped.model_copy(update=savings)


def in_words(stopped: EarlyStopped) -> str:
    """For a condition's message."""
    model_step = stopped.model_step or stopped.stopped_at_step
    of_best = "" if model_step == stopped.stopped_at_step else f", as it was after step {model_step}"
    return (
        f"the model was trained until it no longer improved, {stopped.stopped_at_step} of {stopped.total_steps} "
        f"steps{of_best},"
    )
