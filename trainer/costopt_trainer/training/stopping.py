"""Stopping a training: noticed between micro-batches, and agreed on by all ranks.

Stop        has this rank been asked to end?
Question    should all end? Asked on all ranks at the same micro-batch, about once a second
"""

import os
import sys
import time
from collections.abc import Callable

from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.training.process_group import ProcessGroup

ASK_EVERY_SECONDS = 1.0
"""An exchange between hosts takes at most a millisecond, so this costs 0.1 %."""


class Stop:
    """Has this rank been asked to end? Called from a thread of its own, the moment SIGTERM comes.

    `otherwise` is its message if no step is being taken.
    """

    def __init__(self, otherwise: str = "ending before the first step") -> None:
        self._otherwise = otherwise
        self.asked = False
        self.in_steps = False

    def __call__(self, why: str) -> None:
        """In steps, ask for a checkpoint; before, there is nothing to save and maybe a long wait."""
        self.asked = True
        if not self.in_steps:
            print(f"{self._otherwise}: {why}", file=sys.stderr, flush=True)
            os._exit(EXIT_PREEMPTED)


class Question:
    """Should all end? Each kind of work has its own, because their micro-batches take different times."""

    def __init__(self, gang: ProcessGroup, stop: Stop, now: Callable[[], float] = time.monotonic) -> None:
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
