"""Which sample comes at which position where a training carries states from sample to sample: an order without state.

A step reads one sample of each of `lanes` lanes, and the next step the samples that follow these. Lane i of step s is
position s * lanes + i of the stream: ranks share it as they share the shuffled order (see sampler.py).

An epoch cuts the samples, as a ring that begins anywhere, into lanes of one length. What is left over, fewer samples
than lanes, is not read in this epoch. Where the ring begins is drawn for each epoch, so that lanes are cut elsewhere
and others are left over.
"""

import numpy as np
from numpy.typing import NDArray

from costopt_trainer.data.sampler import GOLDEN, mix


def lane_indices(*, seed: int, position: int, count: int, num_samples: int, lanes: int) -> NDArray[np.int64]:
    """Sample numbers, each in [0, num_samples), at positions [position, position + count) of the stream of `seed`.

    Costs O(count), whatever the position. Raises ValueError unless `num_samples` is at least `lanes` and `lanes` at
    least 1, and `position` and `count` at least 0.
    """
    epochs, lane, turn = _places(position=position, count=count, num_samples=num_samples, lanes=lanes)
    keys = mix(mix(np.full(count, seed, dtype=np.uint64) + GOLDEN) + epochs.astype(np.uint64) * GOLDEN)
    begins = (keys % np.uint64(num_samples)).astype(np.int64)
    return (begins + lane * (num_samples // lanes) + turn) % num_samples


def lane_begins(*, seed: int, position: int, count: int, num_samples: int, lanes: int) -> NDArray[np.bool_]:
    """Whether the sample at a position does not go on from the one that its lane had before, for the same positions.

    That is at the beginning of an epoch, and where the ring is closed: sample 0 goes on from none.
    """
    _, _, turn = _places(position=position, count=count, num_samples=num_samples, lanes=lanes)
    indices = lane_indices(seed=seed, position=position, count=count, num_samples=num_samples, lanes=lanes)
    return (turn == 0) | (indices == 0)


def _places(
    *, position: int, count: int, num_samples: int, lanes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The epoch of each position, its lane, and how many samples this lane has had in the epoch."""
    if not 1 <= lanes <= num_samples or position < 0 or count < 0:
        raise ValueError("lanes must be at least 1 and at most num_samples, position and count at least 0")
    steps, lane = np.divmod(position + np.arange(count, dtype=np.int64), lanes)
    epochs, turn = np.divmod(steps, num_samples // lanes)
    return epochs, lane, turn
