"""The combined state of the replicas of one attempt."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from costopt.plan.observed import Replica

MAX_WAITING_REASONS = 3
"""Enough for people to see what is missing."""


@dataclass(frozen=True)
class Gang:
    """The replicas of one attempt that are known, in order of their index."""

    replicas: tuple[Replica, ...]
    size: int
    """Replicas that the attempt is meant to have."""

    @property
    def live(self) -> bool:
        """Whether a replica still runs."""
        return any(replica.live for replica in self.replicas)

    @property
    def failed(self) -> tuple[Replica, ...]:
        """Replicas that did not exit 0. One is enough to break the gang: the others would wait for it forever."""
        return tuple(replica for replica in self.replicas if replica.state == "Failed")

    @property
    def succeeded(self) -> bool:
        """Whether every replica of the gang exited 0."""
        ended_well = {replica.index for replica in self.replicas if replica.state == "Succeeded"}
        return not self.live and not self.failed and ended_well >= set(range(self.size))

    @property
    def silent_for(self) -> timedelta | None:
        """How long no replica has shown activity. None: unknown.

        One replica that stirs keeps the gang alive, for the others may be waiting for it; and one that has not begun
        to run (an image is pulled, a node is sought) or that cannot be heard may be the one that they wait for.
        """
        silences = [replica.silent_for for replica in self.replicas if replica.live]
        known = [silence for silence in silences if silence is not None]
        return min(known) if known and len(known) == len(silences) else None

    def gives_up_waiting_in(self, timeout: timedelta, now: datetime) -> timedelta | None:
        """Time until the replica that has waited longest to run has waited too long: 0 or less when it has. None: none
        waits."""
        since = [replica.waiting_since for replica in self.replicas if replica.live and replica.waiting_since]
        return min(since) + timeout - now if since else None

    def starts_up_in(self, timeout: timedelta) -> timedelta | None:
        """Time that is left of `timeout` to the replica that has started up for longest: 0 or less when it is over.

        None: none starts up. Once one has reported steps all have taken them, for they go in step.
        """
        live = [replica for replica in self.replicas if replica.live]
        if any(replica.progress is not None for replica in live):
            return None
        known = [replica.starting_for for replica in live if replica.starting_for is not None]
        return timeout - max(known) if known else None

    @property
    def phase(self) -> str:
        """What its first replica is at while no step ends; empty when that is not known."""
        return next((replica.phase.words for replica in self.replicas if replica.live and replica.phase), "")

    @property
    def waits_for(self) -> str:
        """What its replicas wait for before all can run; empty when none waits. The same while they wait for the same,
        however many of them do."""
        reasons = sorted({replica.waiting_for for replica in self.replicas if replica.live and replica.waiting_for})
        return "; ".join(reasons[:MAX_WAITING_REASONS])
