"""What the attempts that a status still tells of were counted as."""

from collections.abc import Mapping

from costopt.accounting.outcome import Attempt, AttemptEnd
from costopt.plan.causes import CAUSES
from costopt.plan.stages import IN_FLIGHT
from costopt.schema.status import Failure, JobStatus, StageStatus


def ends_of(status: JobStatus) -> Mapping[Attempt, AttemptEnd | None]:
    """The end of each stage's current attempt (None: it goes on), and of the one that failed last."""
    ends: dict[Attempt, AttemptEnd | None] = {}
    if status.failure is not None:
        ends[status.failure.stage, status.failure.attempt] = _of_failure(status.failure)
    for stage in status.stages:
        ends[stage.name, stage.attempt] = _end_of(stage)
    return ends


def _end_of(stage: StageStatus) -> AttemptEnd | None:
    if stage.state in IN_FLIGHT:
        return None
    if stage.state == "Succeeded":
        return AttemptEnd("Success")
    if stage.state == "Waiting":
        return AttemptEnd("Suspension")
    return _of_failure(stage.failure) if stage.failure else AttemptEnd("Stop")


def _of_failure(failure: Failure) -> AttemptEnd:
    return AttemptEnd("Disruption" if CAUSES[failure.reason].kind == "Disruption" else "Failure", failure.reason)
