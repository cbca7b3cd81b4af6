"""The training samples as those see them who choose: block by block, so that memory is bounded.

Shape suffixes: N = training samples, B = samples of a block, T = tokens of a sample.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from costopt_trainer.data.training_data import IGNORED_TARGET, Batch, TrainingData
from costopt_trainer.phases import phase

AT_ONCE = 256
"""Samples in memory at once."""
AT_ONCE_FOR_A_MODEL = 32
"""The same where a model reads them: each block is a piece of the phase, and one may take minutes."""

Losses = Callable[[Batch], NDArray[np.float64]]
"""A batch -> the mean loss of each of its samples, nats per target, float64 (B,)."""
Vectors = Callable[[Batch], NDArray[np.float32]]
"""A batch -> where each of its samples lies, float32 (B, D)."""


@dataclass(frozen=True)
class Samples:
    """All training samples of a job."""

    data: TrainingData
    seed: int
    """Of the recipe: what is chosen by chance follows from it."""
    losses: Losses | None = None
    """Of the reference model, if the settings name one."""
    vectors: Vectors | None = None
    """Of the encoder, if the settings name one."""

    @property
    def count(self) -> int:
        """N."""
        return self.data.num_train_samples

    def blocks(self, numbers: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """The samples `numbers` (all: None), as they are in the first epoch, in that order, some at a time."""
        wanted = np.arange(self.count, dtype=np.int64) if numbers is None else numbers
        size = AT_ONCE if self.losses is None and self.vectors is None else AT_ONCE_FOR_A_MODEL
        with phase("Selecting", alone=True) as pieces:
            for start in range(0, len(wanted), size):
                yield self.data.train_batch(wanted[start : start + size])
                pieces.done(start, len(wanted))

    def each(self, of: Callable[[Batch], NDArray[Any]]) -> NDArray[Any]:
        """What `of` has for each sample of a batch, for all samples, (N, ...)."""
        return np.concatenate([of(batch) for batch in self.blocks()])

    @property
    def classes(self) -> int | None:
        """How many classes there are; None if samples have none."""
        return self.data.num_classes

    def tokens(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens (B, T) as they stand in the text, and how many of each sample are no filling (B,)."""
        inputs_BT, targets = batch
        if self.data.num_classes is None and self.data.pad_id is not None:  # masked text: what is hidden is the target
            inputs_BT = torch.where(targets == IGNORED_TARGET, inputs_BT, targets)
            return inputs_BT.numpy(), np.full(len(inputs_BT), inputs_BT.shape[1], dtype=np.int64)
        if self.data.pad_id is None:
            return inputs_BT.numpy(), np.full(len(inputs_BT), inputs_BT.shape[1], dtype=np.int64)
        tokens_BT = inputs_BT.numpy()
        # A text may hold the filling token too: only what stands behind the last other token is filling.
        reverse_BT = (tokens_BT != self.data.pad_id)[:, ::-1]
        lengths_B = np.where(reverse_BT.any(axis=1), tokens_BT.shape[1] - reverse_BT.argmax(axis=1), 0)
        return tokens_BT, lengths_B.astype(np.int64)

    def texts(self, batch: Batch) -> list[str]:
        """The text of each sample; of data whose tokens were made of text."""
        tokenizer = self.data.tokenizer
        if tokenizer is None:
            raise ValueError("these samples have no text")
        return [
            # Tokens that were put behind the tokenizer's own, such as what hides others, stand for no text.
            tokenizer.decode(row_T[:length][row_T[:length] < tokenizer.vocabulary_size].tolist())
            for row_T, length in zip(*self.tokens(batch), strict=True)
        ]
