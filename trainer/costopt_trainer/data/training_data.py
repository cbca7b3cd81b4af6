"""The data as training and evaluation see it: samples by number, in batches of tensors."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from costopt_trainer.data.lanes import lane_begins, lane_indices
from costopt_trainer.data.sampler import sample_epochs, sample_indices
from costopt_trainer.data.tokenizers.table import TextTokenizer
from costopt_trainer.errors import NotRetryable

IGNORED_TARGET = -100
"""A target that counts for nothing: neither in the loss nor among the targets."""

TRIMMED_TO = 8
"""Lengths of trimmed batches are multiples of this: few shapes, and such as devices are fast with."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets on the CPU. Text: both int64 (B, T), the targets are the inputs shifted by one token. Masked text:
the same, the targets are the tokens that were there where some are hidden, and IGNORED_TARGET elsewhere. Labelled text:
int64 (B, T), filled up behind with `pad_id`, and classes int64 (B,). Images: float32 (B, C, H, W) in [-1, 1], and
classes int64 (B,). Tables: float32 (B, F) as in the file, and classes int64 (B,)."""

BatchOfEpoch = Callable[[NDArray[np.int64], NDArray[np.int64], int], Batch]
"""Samples by number (B,), the epoch of each (B,), and the seed of the training -> the samples as they are then."""


class SampleOrder(Protocol):
    """Which sample comes at which position: pure functions of their arguments, for any thread."""

    def __call__(self, *, seed: int, position: int, count: int) -> NDArray[np.int64]:
        """Sample numbers at positions [position, position + count) of the stream of `seed`."""

    def epochs(self, *, position: int, count: int) -> NDArray[np.int64]:
        """The epochs of these positions."""


@dataclass(frozen=True)
class FeatureScales:
    """How the features of a table are spread over its training split."""

    means_F: torch.Tensor
    """float32 (F,)."""
    deviations_F: torch.Tensor
    """Standard deviations, float32 (F,); 1 for a feature that is always the same."""


@dataclass(frozen=True)
class PartOfData:
    """The samples of one of several sources, which follow on those of the source before it."""

    name: str
    num_train_samples: int
    num_validation_samples: int


@dataclass(frozen=True)
class TrainingData:
    """Training and held-out samples, each reached by its number."""

    num_train_samples: int
    """At least 1."""
    num_validation_samples: int
    """At least 1."""
    tokens_per_sample: int
    """Targets to learn from a sample at most: the context length; 1 where a sample has one class."""
    train_batch: Callable[[NDArray[np.int64]], Batch]
    """Training samples by number (B,), each in [0, num_train_samples). May be called from any thread."""
    validation_batch: Callable[[NDArray[np.int64]], Batch]
    """Held-out samples by number (B,), each in [0, num_validation_samples)."""
    fingerprint: str
    """Hash of the content and of the settings that affect samples: equal fingerprints, equal samples."""
    vocabulary_size: int | None = None
    """Tokens in the vocabulary, with those that no text has, such as `pad_id`; None for other data than text."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width); None for other data than images."""
    feature_scales: FeatureScales | None = None
    """Of each feature; None for other data than tables."""
    num_classes: int | None = None
    """Classes; None for text without labels."""
    class_names: tuple[str, ...] | None = None
    """The label of each class; None if it has none but its number."""
    pad_id: int | None = None
    """The token that stands for nothing: what has it is no part of the sample. None where nothing is filled up."""
    separator_id: int | None = None
    """The token behind which another document begins, where a model must keep to a document. None: it need not."""
    validation_bytes_per_token: float | None = None
    """Bytes of text per held-out token, so that loss per byte = loss per token / this; None where not each token of
    a text is to be told."""
    reference_entropies: dict[str, float] = field(default_factory=dict)
    """Loss of the simplest models on the held-out bytes, nats per byte, by name; empty where there is no loss per
    byte."""
    notes: tuple[str, ...] = ()
    """Log lines about how the samples were made."""
    batch_of_epoch: BatchOfEpoch | None = None
    """Where each epoch shows the samples otherwise. `train_batch` shows them as in epoch 0 of seed 0, and without
    augmentations. None: they are the same in every epoch."""
    tokenizer: TextTokenizer | None = None
    """What made the tokens; None for other data than text."""
    lanes: int | None = None
    """Training samples of a step, each of which goes on from its like in the step before (see lanes.py). None: samples
    come in a shuffled order."""
    order: SampleOrder | None = None
    """How samples follow each other. None: each epoch is a permutation of all, see sampler.py."""
    trims: bool = False
    """Whether training batches are as long as their longest sample, up to the next multiple of TRIMMED_TO. For samples
    that are filled up with `pad_id`."""

    parts: tuple[PartOfData, ...] = ()
    """The sources of a mixture, in the order of their samples. Empty: there is one source."""

    def only(self, numbers: NDArray[np.int64]) -> Self:
        """The same data with the training samples `numbers` alone: number i of them is then sample i. Of a mixture
        they must be in ascending order."""
        train_batch, of_epoch = self.train_batch, self.batch_of_epoch
        return replace(
            self,
            num_train_samples=len(numbers),
            train_batch=lambda indices: train_batch(numbers[indices]),
            batch_of_epoch=None
            if of_epoch is None
            else lambda indices, epochs, seed: of_epoch(numbers[indices], epochs, seed),
            fingerprint=f"{self.fingerprint}-{hash_of_numbers(numbers)}",
            parts=self._parts_of(numbers),
        )

    def _parts_of(self, numbers: NDArray[np.int64]) -> tuple[PartOfData, ...]:
        stops = np.cumsum([part.num_train_samples for part in self.parts], dtype=np.int64)
        counts = np.diff(np.searchsorted(numbers, stops), prepend=0).tolist()
        return tuple(replace(part, num_train_samples=left) for part, left in zip(self.parts, counts, strict=True))

    def in_order(self, order: SampleOrder, name: str) -> Self:
        """The same samples in another order, whose `name` tells it from others."""
        return replace(self, order=order, fingerprint=f"{self.fingerprint}-{name}")

    def in_lanes(self, lanes: int) -> Self:
        """The same samples, in lanes. Raises NotRetryable("InvalidData") if there are fewer samples than lanes.

        For samples that stand one after another in a text, and are the same in every epoch.
        """
        if self.num_train_samples < lanes:
            raise NotRetryable(
                "InvalidData",
                f"the training split must give at least batch.globalBatchSize contexts, {lanes}, where states are "
                f"carried from context to context, but gives {self.num_train_samples}: give more text, or a smaller "
                "globalBatchSize or contextLength",
            )
        length, left = divmod(self.num_train_samples, lanes)
        note = f"{lanes} sequences are read side by side, {length} contexts of each in an epoch"
        if left:
            note += f"; {left} of {self.num_train_samples} contexts are left out, others in each epoch"
        return replace(self, lanes=lanes, notes=(*self.notes, note))

    def begins(self, *, seed: int, position: int, count: int) -> NDArray[np.bool_]:
        """Which samples at positions [position, position + count) of the stream of `seed` go on from none."""
        if self.lanes is None:
            return np.ones(count, dtype=np.bool_)
        return lane_begins(
            seed=seed, position=position, count=count, num_samples=self.num_train_samples, lanes=self.lanes
        )

    def train_batches(
        self, *, seed: int, position: int, count: int, batch_size: int, whole: bool = False
    ) -> list[Batch]:
        """What stands at positions [position, position + count) of the stream of `seed`, in batches of one size.

        `whole`: none is trimmed.
        A function of its arguments alone, so that any number of ranks can share the stream. May be called from any
        thread. `batch_size` must divide `count`.
        """
        of = self.num_train_samples
        if self.lanes is not None:
            numbers = lane_indices(seed=seed, position=position, count=count, num_samples=of, lanes=self.lanes)
            return [self.train_batch(part) for part in numbers.reshape(-1, batch_size)]
        if self.order is None:
            numbers = sample_indices(seed=seed, position=position, count=count, num_samples=of)
        else:
            numbers = self.order(seed=seed, position=position, count=count)
        if self.batch_of_epoch is None:
            batches = [self.train_batch(part) for part in numbers.reshape(-1, batch_size)]
            return [trimmed(batch, self.pad_id) for batch in batches] if self.trims and not whole else batches
        if self.order is None:
            epochs = sample_epochs(position=position, count=count, num_samples=of)
        else:
            epochs = self.order.epochs(position=position, count=count)
        parts = zip(numbers.reshape(-1, batch_size), epochs.reshape(-1, batch_size), strict=True)
        return [self.batch_of_epoch(part, own, seed) for part, own in parts]


def trimmed(batch: Batch, pad_id: int | None) -> Batch:
    """The batch without what fills all of its samples up, but for the next multiple of TRIMMED_TO tokens."""
    inputs_BT, targets = batch
    if pad_id is None:
        return batch
    real_T = inputs_BT.ne(pad_id).any(dim=0)
    longest = int(real_T.nonzero().max()) + 1 if bool(real_T.any()) else 1
    length = min(-(-longest // TRIMMED_TO) * TRIMMED_TO, inputs_BT.shape[1])
    return inputs_BT[:, :length].contiguous(), targets


def hash_of_numbers(numbers: NDArray[np.int64]) -> str:
    """What tells a table of sample numbers from another: 16 hexadecimal digits."""
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()[:16]
