"""Two statuses -> the changes between them, in words. Pure, so that what a user is told can be tested."""

from collections.abc import Iterator

from costopt.names import TRAIN_STAGE
from costopt.schema.replica import Progress
from costopt.schema.status import Condition, JobStatus, StageStatus


def changes(before: JobStatus, after: JobStatus) -> list[str]:
    """One line for each relevant change, in the order in which a reader wants them."""
    lines: list[str] = []
    for stage in after.stages:
        lines += _stage_changes(before.stage(stage.name) or StageStatus(name=stage.name, state="Waiting"), stage, after)
    lines += _resumption(before.progress, after.progress)
    if before.early_stopped is None and (stopped := after.early_stopped) is not None:
        lines.append(f"{TRAIN_STAGE}: stopped early, at step {stopped.stopped_at_step} of {stopped.total_steps}")
    known = {variant.name for variant in before.variants}
    for variant in after.variants:
        if variant.name not in known:
            lines.append(
                f"{variant.name}: {float(variant.size_ratio):.2f}x smaller, {float(variant.speedup):.2f}x as fast, "
                f"validation loss {float(variant.validation_loss_increase):+.4f}"
            )
            lines += [f"{variant.name}: rejected: {fault.message}" for fault in variant.faults]
    for condition in after.conditions:
        lines += _condition_change(before.condition(condition.type), condition)
    return lines


def _resumption(before: Progress | None, after: Progress | None) -> Iterator[str]:
    """Where a new attempt resumed: said separately, because a damaged checkpoint is skipped."""
    if after is None or after.resumed_from_step is None or attempt_mark(before) == attempt_mark(after):
        return
    if after.checkpoints_passed_over:
        yield f"{TRAIN_STAGE}: {after.checkpoints_passed_over}"
    yield f"{TRAIN_STAGE}: resumed from the checkpoint of step {after.resumed_from_step}"


def attempt_mark(progress: Progress | None) -> tuple[int | None, ...]:
    """Distinguishes the progress of attempts, and of ranks that were started anew in place: no two attempts start up in
    the same number of milliseconds."""
    if progress is None:
        return (None, None, None)
    startup = progress.metered.startup if progress.metered else None
    return (progress.resumed_from_step, startup, progress.in_place_restarts)


def _stage_changes(before: StageStatus, after: StageStatus, status: JobStatus) -> Iterator[str]:
    name = after.name
    if after.failures > before.failures:
        yield f"{name}: attempt {before.attempt} failed{_why(after, status)}"
    if after.disruptions > before.disruptions:
        yield f"{name}: attempt {before.attempt} was interrupted from outside"
    if after.in_place_restarts > before.in_place_restarts:
        cause = after.restarted_for
        yield f"{name}: ranks started anew in place" + (f" ({cause.reason}: {cause.message})" if cause else "")
    begun = after.state in ("Starting", "Running")
    if begun and (before.state == "Waiting" or after.attempt > before.attempt):
        yield f"{name}: attempt {after.attempt} starts"
    if after.state != before.state:
        if after.state == "Stopping":
            yield f"{name}: stopping"
        elif after.state == "Succeeded":
            yield f"{name}: done"
        elif after.state == "Failed":
            yield f"{name}: failed"


def _why(stage: StageStatus, status: JobStatus) -> str:
    failure = status.failure
    if failure is None or failure.stage != stage.name:
        return ""
    message = failure.message.strip().splitlines()
    return f" ({failure.reason}{': ' + message[0] if message else ''})"


def _condition_change(before: Condition | None, after: Condition) -> Iterator[str]:
    if before is not None and before.status == after.status:
        return
    interesting = {
        "Suspended": "True",
        "Stalled": "True",
        "BudgetExceeded": "True",
        "Priced": "False",
        "Succeeded": "False",
    }
    if interesting.get(after.type) == after.status:
        yield "suspended" if after.type == "Suspended" else after.message
