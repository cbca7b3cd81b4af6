"""What a shell is to do. Every action may be applied twice: a shell that crashed half-way is simply told again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from costopt.accounting.outcome import Attempt, AttemptEnd
from costopt.schema.status import JobStatus

StopReason = Literal[
    "SuspendRequested",
    "DeletionRequested",
    "BudgetExceeded",
    "PriceUnknown",
    "DeadlineExceeded",
    "Stalled",
    "NotStarted",
    "StartupTimedOut",
    "ReplicaFailed",
    "NotWanted",
]
"""DeletionRequested: the job is being deleted, and somebody's finalizer keeps it. NotStarted: not all replicas ran in
time. StartupTimedOut: they ran, but took no step in time. NotWanted: replicas that belong to no stage's current
attempt, or outlived a finished job."""

GRACE_SECONDS_OF_A_LIMIT = 600
"""Most grace of a stop that keeps a limit of money or time: the grace period is the user's, up to a day, and costs as
much as the work before it."""
_LIMITS: frozenset[StopReason] = frozenset({"BudgetExceeded", "PriceUnknown", "DeadlineExceeded"})


@dataclass(frozen=True)
class StartGang:
    """Create the replicas of this attempt; those that exist already are left alone."""

    stage: str
    attempt: int


@dataclass(frozen=True)
class StopGang:
    """End the replicas of this attempt that still run."""

    stage: str
    attempt: int
    reason: StopReason
    checkpoint: bool
    """True: SIGTERM and the full grace period, so that a checkpoint is written. False: the gang is broken and
    cannot save anything more; end it soon. May turn from True to False while the gang is ending."""

    @property
    def most_grace_seconds(self) -> int | None:
        """Longest grace period of its replicas, in seconds; None: their own, however long."""
        return GRACE_SECONDS_OF_A_LIMIT if self.reason in _LIMITS else None


@dataclass(frozen=True)
class Plan:
    """One decision. The shell writes `status` first, then applies `stop` and `start`."""

    status: JobStatus
    """To be written before anything is applied."""
    start: tuple[StartGang, ...] = ()
    """Gangs to start; at most one attempt of a stage."""
    stop: tuple[StopGang, ...] = ()
    """Gangs to stop."""
    ends: Mapping[Attempt, AttemptEnd] = field(default_factory=dict)
    """Attempts that have ended, and that `status` counts: their usage records say the same."""
    delete: bool = False
    """True: the job's time to live after its end is over."""
    requeue_after: timedelta | None = None
    """Plan again after this long even if nothing is seen to happen. None: only when something happens."""
