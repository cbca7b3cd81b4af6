"""Samples to train and evaluate on: from the user's settings to batches of tensors.

load_data       settings -> TrainingData
training_data   samples by number, in batches
sources/        where data comes from: documents, or samples
transforms/     documents -> documents
tokenizers/     documents -> tokens
documents       documents as one stream of text
token_cache     tokens on disk, memory-mapped by every rank
making          makes tokens once, part by part
listing         the files of a text, to name differences from another
storages        what jobs write, which is never data
entropy         the reference for a validation loss
sampler         which sample comes at which position
prefetch        prepares the samples of the next step on a thread
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema.data import DataSettings
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.sources.table import DocumentSource, SampleSource, open_source
from costopt_trainer.data.token_cache import open_shards
from costopt_trainer.data.tokenizers.table import Tokens, tokenizer_kind
from costopt_trainer.data.training_data import Batch, TrainingData
from costopt_trainer.data.transforms.table import transforms_of
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase

__all__ = ["Batch", "TrainingData", "load_data", "sample_indices"]


def load_data(
    settings: DataSettings, *, context_length: int | None, cache_dir: Path, own_folder: Path | None = None
) -> TrainingData:
    """The samples that `settings` describe. Text needs `context_length` and keeps its tokens below `cache_dir`.

    `own_folder` is the job's storage: what it writes there is not taken for data.

    Raises NotRetryable("InvalidData"), with a sentence about the remedy, for anything wrong with the user's data;
    ValueError for text without a context length.
    """
    with phase("ReadingData"):
        source = open_source(settings, own_folder)
        if isinstance(source, SampleSource):
            return source.samples()
    if context_length is None:
        raise ValueError("text must have a context length")
    return _samples_of_text(source, settings, context_length, cache_dir)


def _samples_of_text(
    source: DocumentSource, settings: DataSettings, context_length: int, cache_dir: Path
) -> TrainingData:
    shards = open_shards(
        source, transforms_of(settings), tokenizer_kind(settings.tokenizer), settings.validation_percent, cache_dir
    )
    for split, tokens, remedy in (
        ("training", shards.train, "give more text or a smaller contextLength of the model"),
        ("validation", shards.validation, "give more text, a larger data.validationPercent or a smaller contextLength"),
    ):
        if len(tokens) <= context_length:
            raise NotRetryable(
                "InvalidData",
                f"{source.name} must give at least {context_length + 1} tokens (contextLength {context_length} and the "
                f"one that follows) to the {split} split, but gives {len(tokens)}: {remedy}",
            )
    return TrainingData(
        num_train_samples=_num_windows(shards.train, context_length),
        num_validation_samples=_num_windows(shards.validation, context_length),
        tokens_per_sample=context_length,
        train_batch=lambda indices: _windows(shards.train, context_length, indices),
        validation_batch=lambda indices: _windows(shards.validation, context_length, indices),
        fingerprint=f"{shards.key}-{context_length}",
        vocabulary_size=shards.vocabulary_size,
        validation_bytes_per_token=shards.num_validation_bytes / len(shards.validation),
        reference_entropies=shards.reference_entropies,
        notes=tuple(
            changes.told(transform.type)
            for changes, transform in zip(shards.changes, settings.transforms or (), strict=True)
        ),
    )


def _num_windows(tokens: Tokens, context_length: int) -> int:
    """Number of windows that do not overlap, each followed by at least one token."""
    return (len(tokens) - 1) // context_length


def _windows(tokens: Tokens, context_length: int, indices: NDArray[np.int64]) -> Batch:
    """Windows by number: inputs int64 (B, T), and the same shifted by one token."""
    starts = np.asarray(indices, dtype=np.int64)[:, np.newaxis] * context_length
    window = torch.from_numpy(tokens[starts + np.arange(context_length + 1)].astype(np.int64))
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()
