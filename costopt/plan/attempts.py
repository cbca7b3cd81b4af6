"""One step of a stage in flight: from the state of its replicas to the next state of the stage.

Why a gang is being stopped must be known when it has ended, for a stopped replica looks the same in every case. Nothing
is remembered in secret: that the job is being stopped stands in its Suspended condition (see `halts`), and why a
gang broke stands in its stage's `failure`, written before the first replica is told to stop.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from costopt.accounting.outcome import AttemptEnd, Counted
from costopt.names import TRAIN_STAGE
from costopt.plan.actions import StopGang, StopReason
from costopt.plan.causes import CAUSES, FailureKind
from costopt.plan.conditions import MESSAGE_LIMIT
from costopt.plan.failures import first_failure, kind_of
from costopt.plan.gang import Gang
from costopt.plan.observed import Observed
from costopt.plan.restarts import after_lost_attempt, finish
from costopt.schema.replica import FailureReason
from costopt.schema.status import Failure, StageStatus

_STOPPED_FOR: dict[FailureReason, StopReason] = {
    "Stalled": "Stalled",
    "NotStarted": "NotStarted",
    "StartupTimedOut": "StartupTimedOut",
}
"""Failures that no replica's end has shown."""


@dataclass(frozen=True)
class Situation:
    """What every stage's step depends on."""

    observed: Observed
    halting: StopReason | None
    """Why the whole job is being stopped; None when it is not."""
    now: datetime
    ends_job: bool = False
    """That stop is the job's end."""


@dataclass(frozen=True)
class Step:
    """A stage after one step."""

    stage: StageStatus
    news: Failure | None = None
    """A failure that was not known before."""
    stop: StopGang | None = None
    """The gang is to end first."""
    end: AttemptEnd | None = None
    """What the attempt is counted as; None: it continues, or no replica was seen."""


def stage_gang(observed: Observed, stage: StageStatus) -> Gang:
    """The gang of the stage's current attempt."""
    attempt = (stage.name, stage.attempt)
    size = observed.gang_sizes.get(attempt, observed.spec.num_replicas(stage.name))
    return Gang(observed.gangs.get(attempt, ()), size)


def waits_for(stage: StageStatus, observed: Observed) -> str:
    """What the stage's current attempt waits for before all of it can run; empty when it waits for nothing."""
    held_up = observed.held_up.get((stage.name, stage.attempt), "") if stage.state in ("Starting", "Running") else ""
    return held_up or stage_gang(observed, stage).waits_for


def advance(stage: StageStatus, situation: Situation) -> Step:
    """One step of a stage in flight (Starting, Running, Stopping)."""
    gang = stage_gang(situation.observed, stage)
    if gang.live:
        return _while_it_runs(stage, gang, situation)
    if not gang.replicas and stage.state == "Starting":
        return Step(_waiting(stage) if situation.halting else stage)
    return _after_its_end(stage, gang, situation)


def _while_it_runs(stage: StageStatus, gang: Gang, situation: Situation) -> Step:
    if situation.halting:
        # A whole gang is given the time to save its work; one that broke has nothing to save. Replicas that have
        # ended on SIGTERM do not break it: that is how they are told to save.
        broken = stage.failure is not None or any(kind_of(replica) != "Disruption" for replica in gang.failed)
        stop = StopGang(stage.name, stage.attempt, situation.halting, checkpoint=not broken)
        return Step(stage.model_copy(update={"state": "Stopping"}), stop=stop)
    cause = first_failure(gang.failed, stage.failure) or _too_late(stage, gang, situation)
    if cause is None:
        return Step(stage.model_copy(update={"state": "Running"}))
    reason = _STOPPED_FOR.get(cause.reason, "ReplicaFailed")
    return Step(
        stage.model_copy(update={"state": "Stopping", "failure": cause}),
        news=cause if cause != stage.failure else None,
        stop=StopGang(stage.name, stage.attempt, reason, checkpoint=False),
    )


def _after_its_end(stage: StageStatus, gang: Gang, situation: Situation) -> Step:
    observed, now = situation.observed, situation.now
    limits = observed.spec.restarts
    if gang.succeeded and _result_is_there(stage, observed):
        return Step(finish(stage, "Succeeded", now), end=AttemptEnd("Success"))
    beyond_repair = [replica for replica in gang.failed if kind_of(replica) == "NotRetryable"]
    cause = first_failure(beyond_repair, None)
    kind: FailureKind = "NotRetryable"
    if cause is None:
        if situation.halting:
            return Step(_waiting(stage), end=AttemptEnd("Stop" if situation.ends_job else "Suspension"))
        cause = first_failure(gang.failed, stage.failure) or _cause_without_a_failed_replica(stage, gang)
        kind = _kind(cause, gang)
    after = after_lost_attempt(stage, kind, cause, limits, now, identity=observed.identity)
    told = after.failure or cause
    counted: Counted = "Disruption" if kind == "Disruption" else "Failure"
    end = AttemptEnd(counted, cause.reason, all_ended_well=gang.succeeded)
    return Step(after, news=told if told != stage.failure else None, end=end)


def _kind(cause: Failure, gang: Gang) -> FailureKind:
    kind = CAUSES[cause.reason].kind
    return "Disruption" if kind == "Failure" and any(replica.disrupted for replica in gang.failed) else kind


def _waiting(stage: StageStatus) -> StageStatus:
    """The attempt is over because the job was stopped: it counts as neither failure nor disruption."""
    return stage.model_copy(update={"state": "Waiting", "failure": None, "losses_in_a_row": 0})


def _result_is_there(stage: StageStatus, observed: Observed) -> bool:
    return stage.name == TRAIN_STAGE or any(report.name == stage.name for report in observed.variants)


def _cause_without_a_failed_replica(stage: StageStatus, gang: Gang) -> Failure:
    if gang.succeeded:
        message = f"{stage.name} ended with exit code 0 but left no report of the variant"
        return _failure(stage, "ProcessFailed", message)
    message = f"replicas of {stage.name} vanished, and nobody saw how they ended"
    return _failure(stage, "Lost", message)


def _too_late(stage: StageStatus, gang: Gang, situation: Situation) -> Failure | None:
    """The failure of a gang that did not begin to run or to take steps in time, or was silent for too long."""
    limits = situation.observed.spec.restarts
    in_vain = next((replica.waiting_for for replica in gang.replicas if replica.live and replica.waits_in_vain), None)
    if in_vain is not None:
        return _failure(stage, "NotStarted", f"not all replicas of {stage.name} can run: they wait for {in_vain}")
    if limits.start_timeout_seconds is not None and _is_over(
        gang.gives_up_waiting_in(timedelta(seconds=limits.start_timeout_seconds), situation.now)
    ):
        message = f"not all replicas of {stage.name} ran within startTimeoutSeconds ({limits.start_timeout_seconds} s)"
        if gang.waits_for:
            message += f"; they waited for: {gang.waits_for}"
        return _failure(stage, "NotStarted", message)
    seconds = limits.stall_timeout_seconds
    if gang.silent_for is not None and gang.silent_for >= timedelta(seconds=seconds):
        message = f"no replica of {stage.name} finished a step or logged a line for {seconds} s{_phase_before(gang)}"
        return _failure(stage, "Stalled", message)
    if _is_over(startup_left(stage, situation.observed)):
        message = f"{stage.name} took no step within startupTimeoutSeconds ({limits.startup_timeout_seconds} s)"
        return _failure(stage, "StartupTimedOut", message + _phase_before(gang))
    return None


def startup_left(stage: StageStatus, observed: Observed) -> timedelta | None:
    """Time until a recipe's training that takes no step has started up for too long; None: that cannot be."""
    seconds = observed.spec.restarts.startup_timeout_seconds
    if seconds is None or stage.name != TRAIN_STAGE or observed.spec.recipe is None:
        return None
    return stage_gang(observed, stage).starts_up_in(timedelta(seconds=seconds))


def _phase_before(gang: Gang) -> str:
    return f"; its last phase was: {gang.phase}" if gang.phase else ""


def _is_over(left: timedelta | None) -> bool:
    return left is not None and left <= timedelta(0)


def _failure(stage: StageStatus, reason: FailureReason, message: str) -> Failure:
    return Failure(stage=stage.name, attempt=stage.attempt, reason=reason, message=message[:MESSAGE_LIMIT])
