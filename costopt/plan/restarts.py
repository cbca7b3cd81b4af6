"""What an ended attempt means for its stage: another attempt while the limits last, else failure.

Failures and disruptions are counted apart, for they are answered apart: a program that crashes will crash again soon,
while a preempted one did nothing wrong. A limit of 3 allows 3 and ends the stage at the 4th.
"""

from datetime import datetime
from typing import Literal

from costopt.plan.failures import FailureKind
from costopt.schema.job import Restarts
from costopt.schema.status import Failure, StageStatus


def begin(stage: StageStatus, attempt: int, now: datetime) -> StageStatus:
    """The stage with `attempt` decided: to be started."""
    return stage.model_copy(
        update={
            "state": "Starting",
            "attempt": attempt,
            "start_time": stage.start_time or now,
            "attempt_start_time": now,
            "failure": None,
        }
    )


def finish(stage: StageStatus, state: Literal["Succeeded", "Failed"], now: datetime) -> StageStatus:
    """The stage in a final state."""
    failure = stage.failure if state == "Failed" else None
    return stage.model_copy(update={"state": state, "completion_time": now, "failure": failure})


def after_lost_attempt(
    stage: StageStatus, kind: FailureKind, cause: Failure, limits: Restarts, now: datetime
) -> StageStatus:
    """The stage after an attempt that ended otherwise than well, for this `cause`, and not because the job was to
    stop."""
    if kind == "Disruption":
        counted = stage.model_copy(update={"failure": cause, "disruptions": stage.disruptions + 1})
        worth_another = counted.disruptions <= limits.max_disruptions
    else:
        counted = stage.model_copy(update={"failure": cause, "failures": stage.failures + 1})
        worth_another = kind == "Failure" and counted.failures <= limits.max_failures
    return begin(counted, counted.attempt + 1, now) if worth_another else finish(counted, "Failed", now)
