"""Easy samples first: which sample comes at which position, without state.

Steps [0, steps) draw from the easiest share c(t) of the samples (competence, Platanios et al., arXiv 1903.09848, with
their square root):

    c(t) = min(1, sqrt(t (1 - c0^2) / steps + c0^2))

Each step draws a part of a permutation of its own, so none of its samples comes twice. From position steps * batch on
epochs begin, as in sampler.py.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costopt.schema.selection import Curriculum as Settings
from costopt_trainer.data.orders.table import Plan
from costopt_trainer.data.sampler import sample_indices

_SEEDS = 0x9E3779B1
"""Keeps the permutations of steps apart from each other and from those of epochs."""


@dataclass(frozen=True)
class Curriculum:
    """An order of samples."""

    easiest_N: NDArray[np.int64]
    """The numbers of all samples, easiest first."""
    batch_size: int
    """Samples of a step over all ranks; at most N."""
    steps: int
    """Until all samples are drawn from."""
    start_percent: int

    def pool(self, step: int) -> int:
        """From how many of the easiest samples a step draws."""
        count, start = len(self.easiest_N), self.start_percent / 100
        share = 1.0 if step >= self.steps else math.sqrt(step * (1 - start**2) / self.steps + start**2)
        return min(count, max(self.batch_size, math.ceil(share * count)))

    def __call__(self, *, seed: int, position: int, count: int) -> NDArray[np.int64]:
        """Sample numbers at positions [position, position + count) of the stream of `seed`. Costs O(count)."""
        last, numbers = position + count, np.empty(count, dtype=np.int64)
        at, growing = position, self.steps * self.batch_size
        while at < min(last, growing):
            step, offset = divmod(at, self.batch_size)
            stop = min(last, (step + 1) * self.batch_size)
            ranks = sample_indices(
                seed=seed + _SEEDS * (step + 1), position=offset, count=stop - at, num_samples=self.pool(step)
            )
            numbers[at - position : stop - position] = self.easiest_N[ranks]
            at = stop
        if at < last:
            rest = sample_indices(seed=seed, position=at - growing, count=last - at, num_samples=len(self.easiest_N))
            numbers[at - position :] = rest
        return numbers

    def epochs(self, *, position: int, count: int) -> NDArray[np.int64]:
        """The epochs of positions: each step of the growing part is one, so that what epochs change, changes."""
        positions, growing = position + np.arange(count, dtype=np.int64), self.steps * self.batch_size
        of_epochs = self.steps + (positions - growing) // len(self.easiest_N)
        return np.where(positions < growing, positions // self.batch_size, of_epochs)


def planned(settings: Settings) -> Plan:
    """The plan of `data.order.curriculum`."""
    return Plan(
        word="Curriculum",
        name=f"easy-{settings.steps}-{settings.start_percent}",
        order=lambda easiest_N, size: Curriculum(easiest_N, size, settings.steps, settings.start_percent),
        by=settings.by,
        reference=settings.reference,
    )
