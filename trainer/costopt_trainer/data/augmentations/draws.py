"""Random numbers of augmentations, without state: each is a hash of what it is for.

A key is made of the training's seed, the epoch, the sample's number and the augmentation's place in the list; a number
of its name and its own place under that key, all by SplitMix64's finalizer (see data/sampler.py). So a sample gets the
same numbers in whichever batch it comes, on whichever rank, and torch's own random numbers are not touched. What is
made of the words is exact arithmetic or a look-up: a vectorised logarithm may differ in its last bit between the middle
and the end of an array.

Shape suffixes: B = samples of a batch.
"""

import functools
import math
import zlib
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from costopt_trainer.data.sampler import GOLDEN, Words, mix

_STREAM = np.uint64(0x6175676D)
"""Parts these draws from those of the order of samples and of hidden tokens, which have the same seed."""
_QUANTILES = 1 << 16


@dataclass(frozen=True)
class Draws:
    """The random numbers of one augmentation for the samples of a batch. `name` parts those for one purpose from those
    for another; `shape` is of what each sample gets."""

    keys_B: Words

    @classmethod
    def of(cls, seed: int, epochs_B: NDArray[np.int64], samples_B: NDArray[np.int64], place: int) -> "Draws":
        """Those of the augmentation at `place` for these samples in these epochs."""
        keys_B = mix(np.full(len(samples_B), seed, dtype=np.uint64) + _STREAM)
        keys_B = mix(mix(keys_B + epochs_B.astype(np.uint64)) + samples_B.astype(np.uint64))
        return cls(mix(keys_B + np.uint64(place)))

    def of_sample(self, row: int) -> "Draws":
        """Those of one sample of the batch, as a batch of one."""
        return Draws(self.keys_B[row : row + 1])

    def words(self, name: str, *shape: int) -> Words:
        """Words of 64 bits (B, *shape)."""
        keys_B = mix(self.keys_B ^ np.uint64(zlib.crc32(name.encode()) << 16))
        places = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * GOLDEN
        return mix(keys_B[:, np.newaxis] + places).reshape(len(keys_B), *shape)

    def units(self, name: str, *shape: int) -> NDArray[np.float64]:
        """In [0, 1), (B, *shape)."""
        return (self.words(name, *shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def happens(self, name: str, percent: float, *shape: int) -> NDArray[np.bool_]:
        """True with this chance, (B, *shape)."""
        return self.units(name, *shape) < percent / 100

    def whole(self, name: str, below: int, *shape: int) -> NDArray[np.int64]:
        """Whole numbers in [0, below), (B, *shape)."""
        return (self.words(name, *shape) % np.uint64(below)).astype(np.int64)

    def normal(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Standard normal in 65,536 steps, so at most 4.33 from 0, (B, *shape)."""
        count = math.prod(shape)
        sixteens = self.words(name, -(-count // 4)).astype("<u8").view("<u2")[:, :count]
        return _quantiles()[sixteens].reshape(len(self.keys_B), *shape)


@functools.cache
def _quantiles() -> NDArray[np.float32]:
    """The inverse of the normal distribution in the middle of each of the steps."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse((step + 0.5) / _QUANTILES) for step in range(_QUANTILES)], dtype=np.float32)
