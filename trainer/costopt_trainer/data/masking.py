"""Hiding tokens, for a model that learns to tell them from those around them (BERT, arXiv 1810.04805, section 3.1).

Which tokens of a sample are hidden is a pure function of (seed, epoch, sample): each epoch hides others, a resume hides
the same again, and the number of ranks does not matter.

Shape suffixes: B = samples of a batch, T = tokens of a sample.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from costopt_trainer.data.sampler import GOLDEN, Words, mix
from costopt_trainer.data.training_data import IGNORED_TARGET, Batch

CHOSEN_PERCENT = 15
"""Of the tokens of a sample, rounded, and at least one: they are the targets."""
HIDDEN, REPLACED = 0.8, 0.1
"""Shares of those chosen: hidden behind the mask token, replaced by any token. The others stay as they are, for a model
must tell also what it sees: when it is used, nothing is hidden."""

_STREAM = np.uint64(0x6D61736B)
"""Parts these draws from those of the order of samples, which have the same seed."""


@dataclass(frozen=True)
class Masking:
    """How the tokens of a text are hidden."""

    mask_id: int
    """Stands for a hidden token."""
    vocabulary_size: int
    """A replaced token becomes one below this."""
    kept: tuple[int, ...] = ()
    """Tokens that are never chosen, such as those that end a document."""

    def __call__(
        self, tokens_BT: NDArray[np.int64], samples_B: NDArray[np.int64], epochs_B: NDArray[np.int64], seed: int
    ) -> Batch:
        """Inputs int64 (B, T) in which tokens are hidden, and targets int64 (B, T): the tokens that were chosen, and
        IGNORED_TARGET where none was."""
        draws_BT = _draws(samples_B, epochs_B, seed, tokens_BT.shape[1])
        may_not_BT = np.isin(tokens_BT, self.kept)
        chosen_BT = _lowest(np.where(may_not_BT, np.iinfo(np.uint64).max, draws_BT)) & ~may_not_BT
        fate_BT = _unit(mix(draws_BT + GOLDEN))
        any_BT = (mix(draws_BT ^ GOLDEN) % np.uint64(self.vocabulary_size)).astype(np.int64)
        inputs_BT = np.where(chosen_BT & (fate_BT < HIDDEN), self.mask_id, tokens_BT)
        replaced_BT = chosen_BT & (fate_BT >= HIDDEN) & (fate_BT < HIDDEN + REPLACED)
        inputs_BT = np.where(replaced_BT, any_BT, inputs_BT)
        targets_BT = np.where(chosen_BT, tokens_BT, IGNORED_TARGET)
        return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


def _draws(samples_B: NDArray[np.int64], epochs_B: NDArray[np.int64], seed: int, length: int) -> Words:
    """One word for each token (B, T)."""
    keys_B = mix(np.full(len(samples_B), seed, dtype=np.uint64) + _STREAM)
    keys_B = mix(mix(keys_B + epochs_B.astype(np.uint64)) + samples_B.astype(np.uint64))
    return mix(keys_B[:, np.newaxis] + np.arange(1, length + 1, dtype=np.uint64) * GOLDEN)


def _lowest(draws_BT: Words) -> NDArray[np.bool_]:
    """True for the tokens of each sample with the lowest draws, as many as are to be chosen."""
    count = max(1, round(draws_BT.shape[1] * CHOSEN_PERCENT / 100))
    places = np.argpartition(draws_BT, count - 1, axis=1)[:, :count]
    chosen = np.zeros(draws_BT.shape, dtype=np.bool_)
    np.put_along_axis(chosen, places, values=True, axis=1)
    return chosen


def _unit(words: Words) -> NDArray[np.float64]:
    """In [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
