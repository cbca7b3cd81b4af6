"""Samples of like length in one batch: which sample comes at which position, without state.

The shuffled stream (see sampler.py) is cut into stretches of `batches` whole steps, and at the ends of epochs. What
stands in a stretch is sorted by length, shared out among its steps, and the steps are shuffled: so an epoch still has
every sample once, and each stretch the samples that it would have had.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costopt.schema.selection import LengthBucketed
from costopt_trainer.data.orders.table import Plan
from costopt_trainer.data.sampler import sample_epochs, sample_indices

_SEEDS = 0x85EBCA6B
"""Keeps the orders of steps apart from each other and from those of samples."""


@dataclass(frozen=True)
class LengthBuckets:
    """An order of samples."""

    ranks_N: NDArray[np.int64]
    """The place of each sample among all of them, the shortest first."""
    batch_size: int
    """Samples of a step over all ranks."""
    batches: int
    """Steps whose samples are sorted together."""

    def __call__(self, *, seed: int, position: int, count: int) -> NDArray[np.int64]:
        """Sample numbers at positions [position, position + count) of the stream of `seed`.

        Costs O(count + batches * batch_size).
        """
        numbers, at = np.empty(count, dtype=np.int64), position
        while at < position + count:
            start, stretch = self._stretch(seed, at)
            part = stretch[at - start : position + count - start]
            numbers[at - position : at - position + len(part)] = part
            at += len(part)
        return numbers

    def _stretch(self, seed: int, position: int) -> tuple[int, NDArray[np.int64]]:
        """Where the stretch with this position begins, and its samples in order."""
        of, size = len(self.ranks_N), self.batches * self.batch_size
        epoch, number = position // of, position // size
        start, stop = max(epoch * of, number * size), min((epoch + 1) * of, (number + 1) * size)
        samples = sample_indices(seed=seed, position=start, count=stop - start, num_samples=of)
        samples = samples[np.argsort(self.ranks_N[samples], kind="stable")]
        steps = np.arange(start, stop, dtype=np.int64) // self.batch_size - start // self.batch_size
        sizes = np.bincount(steps)  # the first and the last step may lie in two epochs
        own_seed = (seed + _SEEDS * (number + 1)) % 2**64
        order = sample_indices(seed=own_seed, position=epoch * len(sizes), count=len(sizes), num_samples=len(sizes))
        stops = np.cumsum(sizes[order])
        begins = np.empty(len(sizes), dtype=np.int64)
        begins[order] = stops - sizes[order]
        within = np.arange(len(steps)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return start, samples[begins[steps] + within]

    def epochs(self, *, position: int, count: int) -> NDArray[np.int64]:
        """The epochs of positions."""
        return sample_epochs(position=position, count=count, num_samples=len(self.ranks_N))


def planned(settings: LengthBucketed) -> Plan:
    """The plan of `data.order.lengthBucketed`."""
    return Plan(
        word="LengthBucketed",
        name=f"buckets-{settings.batches}",
        order=lambda shortest_N, size: LengthBuckets(np.argsort(shortest_N), size, settings.batches),
        by="Length",
        trims=True,
    )
