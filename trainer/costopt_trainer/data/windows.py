"""Samples of a text without labels: windows of tokens that do not overlap.

next_tokens      each token of a window is to be told from those before it
masked_tokens    some tokens of a window are hidden, and to be told from the others
"""

import numpy as np
import torch
from numpy.typing import NDArray

from costopt_trainer.data.masking import Masking
from costopt_trainer.data.token_cache import TokenShards
from costopt_trainer.data.tokenizers.table import Tokens, with_special_tokens
from costopt_trainer.data.training_data import Batch, TrainingData
from costopt_trainer.errors import NotRetryable


def next_tokens(name: str, shards: TokenShards, context_length: int, notes: tuple[str, ...]) -> TrainingData:
    """Windows, each with the same shifted by one token as its targets; `name` is the text's in errors."""
    _check_length(name, shards, context_length, context_length + 1, " and the one that follows")

    def batch(tokens: Tokens, indices: NDArray[np.int64]) -> Batch:
        window_BT = torch.from_numpy(windows_at(tokens, context_length, indices, context_length + 1))
        return window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()

    return TrainingData(
        num_train_samples=(len(shards.train) - 1) // context_length,
        num_validation_samples=(len(shards.validation) - 1) // context_length,
        tokens_per_sample=context_length,
        train_batch=lambda indices: batch(shards.train, indices),
        validation_batch=lambda indices: batch(shards.validation, indices),
        fingerprint=f"{shards.key}-{context_length}",
        vocabulary_size=shards.vocabulary_size,
        validation_bytes_per_token=shards.num_validation_bytes / len(shards.validation),
        reference_entropies=shards.reference_entropies,
        notes=notes,
    )


def masked_tokens(name: str, shards: TokenShards, context_length: int, notes: tuple[str, ...]) -> TrainingData:
    """Windows in which tokens are hidden; held-out ones always in the same places. `name` is the text's in errors."""
    _check_length(name, shards, context_length, context_length, "")
    special, vocabulary_size = with_special_tokens(shards.tokenizer)
    if special.mask_id is None:
        raise NotRetryable(
            "InvalidData",
            f"{name} must be read with a tokenizer that has a mask token, for a model that learns to tell hidden "
            "tokens, but data.tokenizer has none",
        )
    masking = Masking(special.mask_id, shards.tokenizer.vocabulary_size, special.all_ids)

    def batch(tokens: Tokens, samples: NDArray[np.int64], epochs: NDArray[np.int64], seed: int) -> Batch:
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
        notes=notes,
        batch_of_epoch=lambda indices, epochs, seed: batch(shards.train, indices, epochs, seed),
    )


def _check_length(name: str, shards: TokenShards, context_length: int, needed: int, also: str) -> None:
    for split, tokens, remedy in (
        ("training", shards.train, "give more text or a smaller contextLength of the model"),
        ("validation", shards.validation, "give more text, a larger data.validationPercent or a smaller contextLength"),
    ):
        if len(tokens) < needed:
            raise NotRetryable(
                "InvalidData",
                f"{name} must give at least {needed} tokens (contextLength {context_length}{also}) to the {split} "
                f"split, but gives {len(tokens)}: {remedy}",
            )


def windows_at(tokens: Tokens, stride: int, indices: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Windows by number, int64 (B, length), which begin `stride` tokens one after the other."""
    starts_B = np.asarray(indices, dtype=np.int64)[:, np.newaxis] * stride
    return tokens[starts_B + np.arange(length)].astype(np.int64)
