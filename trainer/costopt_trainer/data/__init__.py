"""Samples to train and evaluate on: from the user's settings to batches of tensors.

load_data    settings -> TrainingData (below)
text         which files, in which order, split how
tokenizer    bytes or learned byte pairs
token_cache  tokens on disk, memory-mapped by every rank
making       tokens made once, part by part
listing      which files a text had, for a refusal of another
storages     what jobs write, which is data for none
entropy      the yardstick for a validation loss
images       labelled images from one .npz file
sampler      which sample comes at which position
prefetch     the samples of the next step, prepared on a thread
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema.recipe import DataSettings
from costopt_trainer.data.images import read_images
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.text import text_source
from costopt_trainer.data.token_cache import open_shards
from costopt_trainer.data.tokenizer import Tokens
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase

__all__ = ["Batch", "TrainingData", "load_data", "sample_indices"]

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets on the CPU. Text: int64 (B, T) both, the targets being the inputs one token on. Images: float32
(B, C, H, W) in [-1, 1], and int64 (B,)."""


@dataclass(frozen=True)
class TrainingData:
    """Training and held-out samples, each reached by its number."""

    num_train_samples: int
    """At least 1."""
    num_validation_samples: int
    """At least 1."""
    tokens_per_sample: int
    """The context length; 1 for images."""
    train_batch: Callable[[NDArray[np.int64]], Batch]
    """Training samples by number (B,), each in [0, num_train_samples)."""
    validation_batch: Callable[[NDArray[np.int64]], Batch]
    """Held-out samples by number (B,), each in [0, num_validation_samples)."""
    fingerprint: str
    """Hash of the content and of the settings that shape samples: equal fingerprints, equal samples."""
    vocabulary_size: int | None = None
    """Tokens in the vocabulary; None for images."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width); None for text."""
    num_classes: int | None = None
    """Classes; None for text."""
    validation_bytes_per_token: float | None = None
    """Bytes of text per held-out token, so that loss per byte = loss per token / this; None for images."""
    reference_entropies: dict[str, float] = field(default_factory=dict)
    """What the simplest models could reach on the held-out bytes, nats per byte, by name; empty for images."""


def load_data(
    settings: DataSettings, *, context_length: int | None, cache_dir: Path, own_folder: Path | None = None
) -> TrainingData:
    """The samples that `settings` describe. Text needs `context_length` and keeps its tokens below `cache_dir`.

    `own_folder` is the job's storage: what it writes there is not taken for data.

    Raises NotRetryable("InvalidData"), with a sentence that says what would be right, for anything wrong with the
    user's data; ValueError if text is asked for without a context length.
    """
    if settings.type == "Images":
        return _load_images(settings)
    if context_length is None:
        raise ValueError("text must have a context length")
    with phase("ReadingData"):
        source = text_source(settings, own_folder)
    shards = open_shards(source, settings.tokenizer, settings.validation_percent, cache_dir)
    for split, tokens, remedy in (
        ("training", shards.train, "give more text or a smaller model.decoderLM.contextLength"),
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
    )


def _load_images(settings: DataSettings) -> TrainingData:
    if settings.images is None:
        raise ValueError("data of type Images must have images settings")
    with phase("ReadingData"):
        splits = read_images(settings.images, settings.validation_percent)
    return TrainingData(
        num_train_samples=len(splits.train.labels_N),
        num_validation_samples=len(splits.validation.labels_N),
        tokens_per_sample=1,
        train_batch=splits.train.batch,
        validation_batch=splits.validation.batch,
        fingerprint=f"{splits.digest}-{settings.validation_percent}",
        image_shape=splits.image_shape,
        num_classes=splits.num_classes,
    )


def _num_windows(tokens: Tokens, context_length: int) -> int:
    """Windows that do not overlap, each followed by at least one more token."""
    return (len(tokens) - 1) // context_length


def _windows(tokens: Tokens, context_length: int, indices: NDArray[np.int64]) -> Batch:
    """Windows by number: inputs int64 (B, T), and the same one token on."""
    starts = np.asarray(indices, dtype=np.int64)[:, np.newaxis] * context_length
    window = torch.from_numpy(tokens[starts + np.arange(context_length + 1)].astype(np.int64))
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()
