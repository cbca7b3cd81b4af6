"""Stopping a training: has this rank been asked to end? All ranks agree on it in `costopt_trainer.agreement`."""

import os
import sys

from costopt.schema.replica import EXIT_PREEMPTED


class Stop:
    """Has this rank been asked to end? Called from a thread of its own, the moment SIGTERM comes.

    `otherwise` is its message if no step is being taken.
    """

    def __init__(self, otherwise: str = "ending before the first step; what checkpoints hold stays") -> None:
        self._otherwise = otherwise
        self.asked = False
        self.in_steps = False

    def __call__(self, why: str) -> None:
        """In steps, ask for a checkpoint; before, there is nothing to save and maybe a long wait."""
        self.asked = True
        if not self.in_steps:
            print(f"{self._otherwise}: {why}", file=sys.stderr, flush=True)
            os._exit(EXIT_PREEMPTED)
