"""Which sample comes at which position of training, without a table and without state.

Training reads an endless stream of sample numbers: epoch after epoch, each a permutation of all samples. The number at
a position is a pure function of (seed, position), so a resumed run continues where it stopped at no cost, and any
number of ranks can share the stream by taking slices of it.

The permutation of an epoch is a Feistel network (Luby and Rackoff 1988) over the smallest power of four that holds all
samples; a value outside the range is sent through again until it falls inside (cycle walking, Black and Rogaway 2002).
Both steps are bijections, hence so is the result. The round function is SplitMix64's finalizer (Steele et al. 2014).
"""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
"""Feistel rounds. Four are enough in theory; small ranges need a few more in practice."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64's step."""
Words = NDArray[np.uint64]


def sample_indices(*, seed: int, position: int, count: int, num_samples: int) -> NDArray[np.int64]:
    """Sample numbers, each in [0, num_samples), at positions [position, position + count) of the stream of `seed`.

    Positions [e * num_samples, (e + 1) * num_samples) are epoch e and hold every sample exactly once. Costs O(count),
    whatever the position. Raises ValueError if `num_samples` is less than 1, or `position` or `count` is negative.
    """
    if num_samples < 1 or position < 0 or count < 0:
        raise ValueError("num_samples must be at least 1, position and count at least 0")
    positions = np.uint64(position) + np.arange(count, dtype=np.uint64)
    epochs, offsets = positions // np.uint64(num_samples), positions % np.uint64(num_samples)
    seeds = np.full(count, seed, dtype=np.uint64)
    keys = mix(mix(seeds + GOLDEN) + epochs * GOLDEN)
    half_bits = max(1, ((num_samples - 1).bit_length() + 1) // 2)
    indices = _permute(offsets, keys, half_bits)
    outside = np.flatnonzero(indices >= num_samples)
    while outside.size:
        indices[outside] = _permute(indices[outside], keys[outside], half_bits)
        outside = outside[indices[outside] >= num_samples]
    return indices.astype(np.int64)


def sample_epochs(*, position: int, count: int, num_samples: int) -> NDArray[np.int64]:
    """The epochs of positions [position, position + count), which count up from 0."""
    return (position + np.arange(count, dtype=np.int64)) // num_samples


def _permute(values: Words, keys: Words, half_bits: int) -> Words:
    """A bijection of [0, 4 ** half_bits), one for each key."""
    bits = np.uint64(half_bits)
    left, right = values >> bits, values & np.uint64((1 << half_bits) - 1)
    for turn in range(1, ROUNDS + 1):
        # The product is computed in Python and cut to 64 bits: numpy warns about overflow of scalars.
        turn_key = np.uint64((turn * int(GOLDEN)) & 0xFFFFFFFFFFFFFFFF)
        mask = mix(right + (keys ^ turn_key)) >> np.uint64(64 - half_bits)
        left, right = right, left ^ mask
    return (left << bits) | right


def mix(words: Words) -> Words:
    """SplitMix64's finalizer: a bijection of 64-bit words, after which each bit hangs on all bits before."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
