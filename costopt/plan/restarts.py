"""What an ended attempt means for its stage: another attempt while the limits last, else failure.

Failures and disruptions are counted apart, for they are answered apart: a program that crashes will crash again soon,
while a preempted one did nothing wrong. A limit of 3 allows 3 and ends the stage at the 4th.

Some causes are worth fewer attempts than the limits allow (`causes`): a stage that runs out of memory twice with the
same resources does so a third time. They are counted by reason over the whole stage, whatever else happened between:
the settings of a stage cannot change within one status.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Literal

from costopt.plan.backoff import losses_in_a_row, pause
from costopt.plan.causes import FailureKind, is_spent
from costopt.plan.conditions import MESSAGE_LIMIT
from costopt.plan.foreign_text import lines
from costopt.plan.observed import Replica
from costopt.schema.job import Restarts
from costopt.schema.replica import EarlierRounds
from costopt.schema.status import Failure, StageStatus


def begin(stage: StageStatus, attempt: int, now: datetime, after: timedelta = timedelta(0)) -> StageStatus:
    """The stage with `attempt` decided: to be started `after` a pause."""
    return stage.model_copy(
        update={
            "state": "Starting",
            "attempt": attempt,
            "start_time": stage.start_time or now,
            "attempt_start_time": now + after,
            "failure": None,
            "in_place_restarts_before": stage.in_place_restarts,
            "restarted_for": None,
        }
    )


def with_restarts_in_place(stage: StageStatus, gang: Iterable[Replica]) -> StageStatus:
    """The stage with the restarts in place that the `gang` of its current attempt has told of. They go in step, so the
    replica that tells most is right; what was told once stays, should that one vanish."""
    told = [progress for replica in gang for progress in _told_by(replica)]
    most = max(told, key=lambda rounds: rounds.restarts, default=None)
    if most is None or stage.in_place_restarts_before + most.restarts <= stage.in_place_restarts:
        return stage
    cause = most.cause and most.cause.model_copy(update={"message": lines(most.cause.message, MESSAGE_LIMIT)})
    return stage.model_copy(
        update={
            "in_place_restarts": stage.in_place_restarts_before + most.restarts,
            "restarted_for": cause or stage.restarted_for,
        }
    )


def _told_by(replica: Replica) -> Iterator[EarlierRounds]:
    said = replica.termination
    for progress in (replica.progress, said.progress if said is not None else None):
        if progress is not None and progress.in_place_restarts:
            yield EarlierRounds(restarts=progress.in_place_restarts, cause=progress.restarted_for)
    if said is not None and said.earlier_rounds is not None:
        yield said.earlier_rounds


def finish(stage: StageStatus, state: Literal["Succeeded", "Failed"], now: datetime) -> StageStatus:
    """The stage in a final state."""
    failure = stage.failure if state == "Failed" else None
    return stage.model_copy(update={"state": state, "completion_time": now, "failure": failure})


def after_lost_attempt(
    stage: StageStatus, kind: FailureKind, cause: Failure, limits: Restarts, now: datetime, *, identity: str
) -> StageStatus:
    """The stage after an attempt that ended otherwise than well, for this `cause`, and not because the job was to
    stop. `identity` tells the job from others."""
    losses = losses_in_a_row(stage, now)
    after = pause(
        limits,
        losses,
        disrupted=kind == "Disruption",
        spread_by=f"{identity}/{stage.name}/{stage.attempt}",
    )
    stage = stage.model_copy(update={"losses_in_a_row": losses})
    if kind == "Disruption":
        counted = stage.model_copy(update={"failure": cause, "disruptions": stage.disruptions + 1})
        worth_another = counted.disruptions <= limits.max_disruptions
        return begin(counted, counted.attempt + 1, now, after) if worth_another else finish(counted, "Failed", now)
    times = stage.failures_by_reason.get(cause.reason, 0) + 1
    spent = is_spent(cause.reason, times)
    counted = stage.model_copy(
        update={
            "failure": _tried(cause, times) if spent and times > 1 else cause,
            "failures": stage.failures + 1,
            "failures_by_reason": {**stage.failures_by_reason, cause.reason: times},
        }
    )
    worth_another = kind == "Failure" and counted.failures <= limits.max_failures and not spent
    return begin(counted, counted.attempt + 1, now, after) if worth_another else finish(counted, "Failed", now)


def _tried(cause: Failure, times: int) -> Failure:
    """The cause, with what was tried against it."""
    tried = (
        f". {times} attempts of {cause.stage} have ended so ({cause.reason}) with the same settings, "
        "so it is not tried again unchanged"
    )
    return cause.model_copy(update={"message": cause.message[: MESSAGE_LIMIT - len(tried)].rstrip(" .") + tried})
