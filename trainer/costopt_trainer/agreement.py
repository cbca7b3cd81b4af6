"""All ranks agree to end: asked at the same moment on all of them, about once a second.

Question    should all end?
Gang        what it needs of the ranks
Asked       what it needs of the stop

Without torch: a program of the user's own agrees in the same way.
"""

import time
from collections.abc import Callable
from typing import Protocol

ASK_EVERY_SECONDS = 1.0
"""An exchange between hosts takes at most a millisecond, so this costs 0.1 %."""


class Gang(Protocol):
    """Some ranks, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Its number among all, from 0."""

    @property
    def world_size(self) -> int:
        """Their number."""

    def sum_integers(self, *values: int) -> list[int]:
        """Each value summed over all ranks."""


class Asked(Protocol):
    """Whether this rank has been asked to end."""

    @property
    def asked(self) -> bool:
        """It has."""


class Question:
    """Should all end? Each kind of work has its own, because their micro-batches take different times."""

    def __init__(self, gang: Gang, stop: Asked, now: Callable[[], float] = time.monotonic) -> None:
        self._gang, self._stop, self._now = gang, stop, now
        self._every = 1  # micro-batches from one exchange to the next, the same on all ranks
        self._count = 0
        self._since = now()

    def begin(self) -> None:
        """A series of micro-batches begins on all ranks, which have just agreed in another way to go on."""
        self._count = 0
        self._since = self._now()

    def all_end(self) -> bool:
        """All ranks call it at each micro-batch; the same answer on all."""
        if self._gang.world_size == 1:
            return self._stop.asked
        self._count += 1
        if self._count < self._every:
            return False
        # By rank 0's clock; at most twice as many as last time, since the first may be slower than the rest.
        pace = (self._now() - self._since) / self._count
        most = 2 * self._every if self._gang.rank == 0 else 0
        wanted = max(1, min(most, int(ASK_EVERY_SECONDS / max(pace, 1e-9)))) if self._gang.rank == 0 else 0
        asked, self._every = self._gang.sum_integers(self._stop.asked, wanted)
        self.begin()
        return asked > 0
