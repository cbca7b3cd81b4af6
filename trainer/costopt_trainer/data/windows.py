"""Samples of a text without labels: windows of tokens that do not overlap.

next_tokens      each token of a window is to be told from those before it; at the end of a document as `packing` says
Shards           what such samples are made from
masked_tokens    some tokens of a window are hidden, and to be told from the others
left_out         the tokens at the end that fill no window: the only ones that are never used, which the log tells
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema.packing import Packing
from costopt_trainer.data.masking import Masking
from costopt_trainer.data.tokenizers.table import TextTokenizer, with_special_tokens
from costopt_trainer.data.training_data import IGNORED_TARGET, Batch, TrainingData
from costopt_trainer.errors import NotRetryable


class Stream(Protocol):
    """Tokens that are reached by their places, such as an array of one dimension."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: NDArray[np.int64], /) -> Any:
        """The tokens at `places`, in an array of that shape."""


class Shards(Protocol):
    """The tokens of a text, split (see token_cache.TokenShards), made here or elsewhere."""

    @property
    def train(self) -> Stream:
        """Training tokens."""

    @property
    def validation(self) -> Stream:
        """Held-out tokens."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """What made them."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the tokenizer."""

    @property
    def num_validation_bytes(self) -> int | None:
        """Bytes of text behind the held-out tokens; None if that is not known."""

    @property
    def reference_entropies(self) -> dict[str, float]:
        """Of the held-out bytes, by name; empty if these are not known."""

    @property
    def key(self) -> str:
        """Hash of content and settings."""


_DEFAULT = Packing()
_NAMED = {"Ignore": "", "Loss": "-loss", "Attention": "-documents"}
"""What packing adds to a fingerprint."""


def next_tokens(
    name: str, shards: Shards, context_length: int, notes: tuple[str, ...], packing: Packing = _DEFAULT
) -> TrainingData:
    """Windows, each with the same shifted by one token as its targets; `name` is the text's in errors.

    What follows on the token that separates documents is the first of another one, and no target unless `packing`
    ignores boundaries.
    """
    check_length(name, (len(shards.train), len(shards.validation)), context_length, ahead=1)
    keeps_to_documents = packing.boundaries != "Ignore"
    separator = shards.tokenizer.separator if keeps_to_documents else None
    if keeps_to_documents and separator is None:
        raise ValueError("documents whose boundaries are respected must have a known separator")

    def batch(tokens: Stream, indices: NDArray[np.int64]) -> Batch:
        window_BT = torch.from_numpy(windows_at(tokens, context_length, indices, context_length + 1))
        inputs_BT, targets_BT = window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()
        if separator is not None:
            # A copy: of a single sample both are views of one window.
            targets_BT = targets_BT.masked_fill(inputs_BT == separator, IGNORED_TARGET)
        return inputs_BT, targets_BT

    num_bytes = shards.num_validation_bytes
    return TrainingData(
        num_train_samples=(len(shards.train) - 1) // context_length,
        num_validation_samples=(len(shards.validation) - 1) // context_length,
        tokens_per_sample=context_length,
        train_batch=lambda indices: batch(shards.train, indices),
        validation_batch=lambda indices: batch(shards.validation, indices),
        fingerprint=f"{shards.key}-{context_length}{_NAMED[packing.boundaries]}",
        vocabulary_size=shards.vocabulary_size,
        separator_id=separator if packing.boundaries == "Attention" else None,
        validation_bytes_per_token=None if num_bytes is None else num_bytes / len(shards.validation),
        reference_entropies=shards.reference_entropies,
        notes=(*notes, *_told_left_out(shards, context_length, ahead=1)),
        tokenizer=shards.tokenizer,
    )


def masked_tokens(name: str, shards: Shards, context_length: int, notes: tuple[str, ...]) -> TrainingData:
    """Windows in which tokens are hidden; held-out ones always in the same places. `name` is the text's in errors."""
    check_length(name, (len(shards.train), len(shards.validation)), context_length, ahead=0)
    special, vocabulary_size = with_special_tokens(shards.tokenizer)
    if special.mask_id is None:
        raise NotRetryable(
            "InvalidData",
            f"{name} must be read with a tokenizer that has a mask token, for a model that learns to tell hidden "
            "tokens, but data.tokenizer has none",
        )
    masking = Masking(special.mask_id, shards.tokenizer.vocabulary_size, special.all_ids)

    def batch(tokens: Stream, samples: NDArray[np.int64], epochs: NDArray[np.int64], seed: int) -> Batch:
        samples = np.asarray(samples, dtype=np.int64)
        return masking(windows_at(tokens, context_length, samples, context_length), samples, epochs, seed)

    def first_epoch(indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.zeros(len(indices), dtype=np.int64)

    return TrainingData(
        num_train_samples=len(shards.train) // context_length,
        num_validation_samples=len(shards.validation) // context_length,
        tokens_per_sample=context_length,
        train_batch=lambda indices: batch(shards.train, indices, first_epoch(indices), 0),
        validation_batch=lambda indices: batch(shards.validation, indices, first_epoch(indices), 0),
        fingerprint=f"{shards.key}-{context_length}-masked",
        vocabulary_size=vocabulary_size,
        pad_id=special.pad_id,
        notes=(*notes, *_told_left_out(shards, context_length, ahead=0)),
        tokenizer=shards.tokenizer,
        batch_of_epoch=lambda indices, epochs, seed: batch(shards.train, indices, epochs, seed),
    )


def left_out(num_tokens: int, context_length: int, ahead: int) -> int:
    """Tokens at the end that fill no window. `ahead`: 1 if the token behind a window is its last target, else 0."""
    return max(num_tokens - ahead, 0) % context_length


def _told_left_out(shards: Shards, context_length: int, ahead: int) -> tuple[str, ...]:
    sizes = len(shards.train), len(shards.validation)
    if not any(left_out(size, context_length, ahead) for size in sizes):
        return ()
    train, validation = (f"{left_out(size, context_length, ahead):,} of {size:,}" for size in sizes)
    return (f"{train} tokens to train on and {validation} held-out ones, the last ones, fill no context: left out",)


def check_length(name: str, sizes: tuple[int, int], context_length: int, ahead: int) -> None:
    """Raise NotRetryable("InvalidData") unless both splits of a text have tokens for a window, and `ahead` more."""
    needed, also = context_length + ahead, " and the one that follows" if ahead else ""
    for split, size, remedy in (
        ("training", sizes[0], "give more text or a smaller contextLength of the model"),
        ("validation", sizes[1], "give more text, a larger data.validationPercent or a smaller contextLength"),
    ):
        if size < needed:
            raise NotRetryable(
                "InvalidData",
                f"{name} must give at least {needed} tokens (contextLength {context_length}{also}) to the {split} "
                f"split, but gives {size}: {remedy}",
            )


def windows_at(tokens: Stream, stride: int, indices: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Windows by number, int64 (B, length), which begin `stride` tokens one after the other."""
    starts_B = np.asarray(indices, dtype=np.int64)[:, np.newaxis] * stride
    windows: NDArray[np.int64] = tokens[starts_B + np.arange(length)].astype(np.int64)
    return windows
