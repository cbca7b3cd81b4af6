"""What is told of a job that is under way: what each stage is at, and the reason of the Succeeded condition.

with_phase     a stage with what its attempt is at, or waits for
under_way      the condition: Pending, BackingOff, Training or Compressing
pending_in     when an attempt that does not run yet is called pending
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from costopt.plan.attempts import stage_gang, waits_for
from costopt.plan.backoff import starts_in
from costopt.plan.conditions import Finding
from costopt.plan.observed import Observed
from costopt.plan.stages import FINAL, IN_FLIGHT, parted
from costopt.schema.status import StageStatus

MAY_WAIT = frozenset({"Starting", "Running"})
"""States of a stage whose attempt may wait for something."""

PHASE_CHARACTERS = 256
"""As many as the status has room for."""

PENDING_AFTER = timedelta(seconds=10)
"""How long an attempt may take to start before the Succeeded condition says what it waits for: most start sooner, and a
status need not be written for each step on the way."""


def with_phase(stage: StageStatus, observed: Observed, now: datetime) -> StageStatus:
    """The stage with what its current attempt is at, or waits for, while no step ends."""
    phase = None
    if stage.state == "Starting" and starts_in(stage, observed.spec.restarts, now):
        phase = _pause_of(stage)
    elif stage.state in MAY_WAIT:
        awaited = waits_for(stage, observed)
        waits = f"waiting for {awaited}" if is_due(pending_in(stage, now)) else ""
        phase = (waits if awaited else stage_gang(observed, stage).phase)[:PHASE_CHARACTERS] or None
    return stage if phase == stage.phase else stage.model_copy(update={"phase": phase})


def _pause_of(stage: StageStatus) -> str:
    """In the same words while it lasts."""
    until = stage.attempt_start_time
    return f"attempt {stage.attempt} starts after a pause, at {until:%Y-%m-%d %H:%M:%S} UTC" if until else ""


def under_way(stages: Sequence[StageStatus], observed: Observed, now: datetime) -> Finding:
    """The Succeeded condition of a job that goes on."""
    training, variants = parted(stages)
    if training is not None and training.state != "Succeeded":
        words = f"training, attempt {training.attempt}"
        return _not_running(training, "training", observed, now) or Finding("Unknown", "Training", words)
    if training is None:
        # Nothing else of the job goes on meanwhile; where a model was trained, the variants' phases tell it.
        begun = [stage for stage in variants if stage.state in IN_FLIGHT]
        reasons = [why for stage in begun if (why := _not_running(stage, stage.name, observed, now))]
        if reasons and len(reasons) == len(begun):
            return reasons[0]
    done = sum(stage.state in FINAL for stage in variants)
    return Finding("Unknown", "Compressing", f"{done} of {len(variants)} variants are done")


def _not_running(stage: StageStatus, name: str, observed: Observed, now: datetime) -> Finding | None:
    """Why its attempt does not run yet; None if it does, or will at once."""
    awaited = waits_for(stage, observed)
    if stage.state in MAY_WAIT and awaited and is_due(pending_in(stage, now)):
        return Finding("Unknown", "Pending", f"{name}, attempt {stage.attempt}, waits for: {awaited}")
    if stage.state == "Starting" and starts_in(stage, observed.spec.restarts, now):
        return Finding("Unknown", "BackingOff", f"{name}: {_pause_of(stage)}, for the one before was lost")
    return None


def pending_in(stage: StageStatus, now: datetime) -> timedelta | None:
    """Time until its current attempt, should it not run by then, is called pending: 0 or less when it is."""
    return None if stage.attempt_start_time is None else stage.attempt_start_time + PENDING_AFTER - now


def is_due(left: timedelta | None) -> bool:
    """Whether no time is left of it; of None there always is."""
    return left is not None and left <= timedelta(0)
