"""How hard a sample is to a bigram model of the training tokens: a reference that one pass over them gives.

Each token is told from the one before it. Counts of pairs are smoothed by those of single tokens (MacKay and Peto
1995), and each occurrence is told by all others (leaving one out, Ney et al. 1995), so that a rare text is not told by
itself. A vocabulary of more than 2,048 tokens shares 2**22 counters by a hash: pairs that meet in one look more
frequent.
"""

import numpy as np
from numpy.typing import NDArray

from costopt_trainer.data.sampler import mix
from costopt_trainer.data.selection.samples import Samples
from costopt_trainer.data.training_data import Batch

COUNTERS = 1 << 22
STRENGTH = 1.0
"""Of the smoothing: as many occurrences as single tokens count for beside pairs."""


class Bigram:
    """Counts of all training tokens."""

    def __init__(self, samples: Samples) -> None:
        """Read all samples once."""
        vocabulary_size = samples.data.vocabulary_size
        if vocabulary_size is None:
            raise ValueError("a bigram model needs samples of tokens")
        self._samples, self._size = samples, vocabulary_size
        self._is_exact = vocabulary_size**2 <= COUNTERS
        self._pairs = np.zeros(min(COUNTERS, vocabulary_size**2), dtype=np.int64)
        self._firsts = np.zeros(vocabulary_size, dtype=np.int64)
        self._seconds = np.zeros(vocabulary_size, dtype=np.int64)
        for batch in samples.blocks():
            first, second, _ = self._pairs_of(batch)
            np.add.at(self._pairs, self._places(first, second), 1)
            self._firsts += np.bincount(first, minlength=vocabulary_size)
            self._seconds += np.bincount(second, minlength=vocabulary_size)
        self._total = int(self._seconds.sum())

    def losses(self, batch: Batch) -> NDArray[np.float64]:
        """Mean loss of each sample (B,), nats per pair; 0 for a sample without one."""
        first, second, row = self._pairs_of(batch)
        single = self._seconds[second] / max(1, self._total - 1 + self._size)
        pairs, firsts = self._pairs[self._places(first, second)] - 1, self._firsts[first] - 1
        likelihood = (np.maximum(pairs, 0) + STRENGTH * single) / (np.maximum(firsts, 0) + STRENGTH)
        sums_B = np.bincount(row, weights=-np.log(likelihood), minlength=len(batch[0]))
        losses_B: NDArray[np.float64] = sums_B / np.maximum(np.bincount(row, minlength=len(batch[0])), 1)
        return losses_B

    def _pairs_of(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """First and second token of each pair that follow one another in a sample, and its row."""
        tokens_BT, lengths_B = self._samples.tokens(batch)
        is_pair = np.arange(1, tokens_BT.shape[1])[np.newaxis, :] < lengths_B[:, np.newaxis]
        row, place = np.nonzero(is_pair)
        return tokens_BT[row, place], tokens_BT[row, place + 1], row

    def _places(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
        pair = first * self._size + second
        if self._is_exact:
            return pair
        return (mix(pair.astype(np.uint64)) % np.uint64(COUNTERS)).astype(np.int64)
