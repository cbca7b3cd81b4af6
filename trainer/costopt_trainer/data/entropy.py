"""How well the simplest models could predict a text: a reference for the validation loss.

The empirical entropies of the evaluated bytes are the lowest loss that any unigram or bigram model of bytes can reach
on them, even one fitted to them. A language model with a lower loss per byte has learned more than that.
"""

import numpy as np
from numpy.typing import NDArray

UNIGRAM = "unigramEntropyNatsPerByte"
BIGRAM = "bigramEntropyNatsPerByte"


class PairCounts:
    """Counts of bytes, and of bytes by the previous byte, over a text that comes in pieces."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._singles: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        self._pairs: NDArray[np.int64] = np.zeros(256 * 256, dtype=np.int64)
        self._last = b""

    def add(self, piece: bytes) -> None:
        """Count `piece`, which follows the previous one without a gap."""
        self.num_bytes += len(piece)
        self._singles += np.bincount(np.frombuffer(piece, dtype=np.uint8), minlength=256)
        joined = np.frombuffer(self._last + piece, dtype=np.uint8)
        self._pairs += np.bincount(joined[:-1].astype(np.int64) * 256 + joined[1:], minlength=256 * 256)
        self._last = piece[-1:] or self._last

    def entropies(self) -> dict[str, float]:
        """H(X) and H(X_t | X_t-1) in nats per byte, by name; 0 for fewer than one byte or pair.

        The second is the chain rule (Cover and Thomas, section 2.2): H(X_t-1, X_t) - H(X_t-1), over the pairs counted.
        """
        firsts = self._pairs.reshape(256, 256).sum(axis=1)
        return {UNIGRAM: _entropy(self._singles), BIGRAM: max(0.0, _entropy(self._pairs) - _entropy(firsts))}


def _entropy(counts: NDArray[np.int64]) -> float:
    """Entropy in nats of the distribution that `counts` are proportional to."""
    seen = counts[counts > 0].astype(np.float64)
    if seen.size == 0:
        return 0.0
    shares = seen / seen.sum()
    return max(0.0, float(-(shares * np.log(shares)).sum()))
