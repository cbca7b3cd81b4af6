"""One stage in flight, one step on: from what its attempt's replicas show to the stage's next state.

Why a gang is being stopped must be known when it has ended, for a stopped replica looks the same in every case. Nothing
is remembered in secret: that the job is being stopped stands in its Suspended condition (see `halts`), and why a
gang broke stands in `status.failure`, written before the first replica is told to stop.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from costopt.names import TRAIN_STAGE
from costopt.plan.actions import StopGang, StopReason
from costopt.plan.failures import LOST_TO_PLATFORM, FailureKind, first_failure, is_about, kind_of
from costopt.plan.gang import Gang, gang_of
from costopt.plan.observed import Observed
from costopt.plan.restarts import after_lost_attempt, finish
from costopt.schema.status import Failure, StageStatus


@dataclass(frozen=True)
class Situation:
    """What every stage's step depends on."""

    observed: Observed
    halting: StopReason | None
    """Why the whole job is being stopped; None when it is not."""
    now: datetime


@dataclass(frozen=True)
class Step:
    """A stage after one step."""

    stage: StageStatus
    failure: Failure | None
    """The job's `failure` after this step."""
    stop: StopGang | None = None
    """The gang is to end first."""


def stage_gang(observed: Observed, stage: StageStatus) -> Gang:
    """The gang of the stage's current attempt."""
    size = observed.spec.num_replicas(stage.name)
    return gang_of(observed.replicas, stage=stage.name, attempt=stage.attempt, size=size)


def advance(stage: StageStatus, failure: Failure | None, situation: Situation) -> Step:
    """One step of a stage in flight (Starting, Running, Stopping); `failure` is the job's so far."""
    gang = stage_gang(situation.observed, stage)
    if gang.live:
        return _while_it_runs(stage, gang, failure, situation)
    if not gang.replicas and stage.state == "Starting":
        return Step(_waiting(stage) if situation.halting else stage, failure)
    return _after_its_end(stage, gang, failure, situation)


def _while_it_runs(stage: StageStatus, gang: Gang, failure: Failure | None, situation: Situation) -> Step:
    known = _known_cause(stage, failure, situation)
    stopping = stage.model_copy(update={"state": "Stopping"})
    if situation.halting:
        # A whole gang is given the time to save its work; one that broke has nothing to save. Replicas that have
        # ended on SIGTERM do not break it: that is how they are told to save.
        broken = known is not None or any(kind_of(replica) != "Disruption" for replica in gang.failed)
        return Step(stopping, failure, StopGang(stage.name, stage.attempt, situation.halting, checkpoint=not broken))
    if known is None and not gang.failed:
        timeout = timedelta(seconds=situation.observed.spec.restarts.stall_timeout_seconds)
        left = gang.stalls_in(timeout, situation.now)
        if left is None or left > timedelta(0):
            return Step(stage.model_copy(update={"state": "Running"}), failure)
    cause = first_failure(gang.failed, known) or _stall(stage, situation.observed)
    reason: StopReason = "Stalled" if cause.reason == "Stalled" else "ReplicaFailed"
    # A stall that was told before, and gave way to another variant's failure since, is not told again.
    told = cause if known is None or is_about(failure, stage) else failure
    return Step(stopping, told, StopGang(stage.name, stage.attempt, reason, checkpoint=False))


def _after_its_end(stage: StageStatus, gang: Gang, failure: Failure | None, situation: Situation) -> Step:
    observed, now = situation.observed, situation.now
    limits = observed.spec.restarts
    if gang.succeeded and _result_is_there(stage, observed):
        return Step(finish(stage, "Succeeded", now), failure)
    beyond_repair = [replica for replica in gang.failed if kind_of(replica) == "NotRetryable"]
    if beyond_repair:
        return Step(after_lost_attempt(stage, "NotRetryable", limits, now), first_failure(beyond_repair, None))
    if situation.halting:
        return Step(_waiting(stage), failure)
    known = _known_cause(stage, failure, situation)
    cause = first_failure(gang.failed, known) or _cause_without_a_failed_replica(stage, gang)
    lost_to_platform = cause.reason in LOST_TO_PLATFORM or any(replica.disrupted for replica in gang.failed)
    kind: FailureKind = "Disruption" if lost_to_platform else "Failure"
    return Step(after_lost_attempt(stage, kind, limits, now), cause)


def _waiting(stage: StageStatus) -> StageStatus:
    """The attempt is over because the job was stopped: it counts as neither failure nor disruption."""
    return stage.model_copy(update={"state": "Waiting"})


def _result_is_there(stage: StageStatus, observed: Observed) -> bool:
    return stage.name == TRAIN_STAGE or any(report.name == stage.name for report in observed.variants)


def _known_cause(stage: StageStatus, failure: Failure | None, situation: Situation) -> Failure | None:
    """Why the attempt is known to have broken; None while it is whole, or stopped with the job."""
    if is_about(failure, stage):
        return failure
    if stage.state == "Stopping" and stage.name != TRAIN_STAGE and not situation.halting:
        # Only a stall stops a variant's one replica by itself; the record of it gave way to another variant's failure.
        return _stall(stage, situation.observed)
    return None


def _cause_without_a_failed_replica(stage: StageStatus, gang: Gang) -> Failure:
    if gang.succeeded:
        message = f"{stage.name} ended with exit code 0 but left no report of the variant"
        return Failure(stage=stage.name, attempt=stage.attempt, reason="ProcessFailed", message=message)
    message = f"replicas of {stage.name} vanished, and nobody saw how they ended"
    return Failure(stage=stage.name, attempt=stage.attempt, reason="Lost", message=message)


def _stall(stage: StageStatus, observed: Observed) -> Failure:
    seconds = observed.spec.restarts.stall_timeout_seconds
    message = f"no replica of {stage.name} finished a step or logged a line for {seconds} s"
    return Failure(stage=stage.name, attempt=stage.attempt, reason="Stalled", message=message)
