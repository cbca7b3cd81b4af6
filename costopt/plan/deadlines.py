"""How long a job may be active, and how long it is kept after its end."""

from datetime import datetime, timedelta

from costopt.schema.job import JobSpec
from costopt.schema.status import JobStatus


def active_milliseconds(status: JobStatus, now: datetime) -> int:
    """Active time over all executions, in milliseconds; suspended time does not count."""
    if status.active_since is None:
        return status.active_milliseconds_before
    return status.active_milliseconds_before + max(0, (now - status.active_since) // timedelta(milliseconds=1))


def deadline_in(spec: JobSpec, status: JobStatus, now: datetime) -> timedelta | None:
    """Active time left: 0 or less when the deadline is reached. None: there is no deadline."""
    if spec.active_deadline_seconds is None:
        return None
    return timedelta(seconds=spec.active_deadline_seconds) - timedelta(milliseconds=active_milliseconds(status, now))


def deletion_in(spec: JobSpec, status: JobStatus, now: datetime) -> timedelta | None:
    """Time left until a finished job is to be deleted: 0 or less when it is due. None: it is kept."""
    if spec.ttl_seconds_after_finished is None or status.completion_time is None:
        return None
    return status.completion_time + timedelta(seconds=spec.ttl_seconds_after_finished) - now
