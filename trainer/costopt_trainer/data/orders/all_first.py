"""All samples first, and from a position on a part of them: which sample comes at which position.

Which part that is follows from what the training learns until then, so nothing behind that position can be asked for
before. Once it is known the order is a pure function of (seed, position) again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costopt_trainer.data.sampler import sample_epochs, sample_indices

_SEEDS = 0xC2B2AE35
"""Keeps the epochs of the part apart from those of all samples."""


@dataclass(frozen=True)
class AllFirst:
    """An order of samples."""

    num_samples: int
    """All of them."""
    until: int
    """The first position that has a sample of the part."""
    kept: NDArray[np.int64] | None = None
    """The numbers of the part. None: not known yet."""

    def __call__(self, *, seed: int, position: int, count: int) -> NDArray[np.int64]:
        """Sample numbers at positions [position, position + count) of the stream of `seed`. Costs O(count).

        Raises ValueError for a position whose sample is not known yet.
        """
        of_all = min(max(self.until - position, 0), count)
        numbers = sample_indices(seed=seed, position=position, count=of_all, num_samples=self.num_samples)
        if of_all == count:
            return numbers
        kept = self._part()
        places = sample_indices(
            seed=seed + _SEEDS, position=position + of_all - self.until, count=count - of_all, num_samples=len(kept)
        )
        return np.concatenate([numbers, kept[places]])

    def epochs(self, *, position: int, count: int) -> NDArray[np.int64]:
        """The epochs of these positions: the first of the part is another than the last of all."""
        of_all = min(max(self.until - position, 0), count)
        epochs = sample_epochs(position=position, count=of_all, num_samples=self.num_samples)
        if of_all == count:
            return epochs
        behind = position + of_all - self.until
        of_part = sample_epochs(position=behind, count=count - of_all, num_samples=len(self._part()))
        return np.concatenate([epochs, of_part + -(-self.until // self.num_samples)])

    def _part(self) -> NDArray[np.int64]:
        if self.kept is None:
            raise ValueError(f"what is kept from position {self.until} on is not known yet")
        return self.kept
