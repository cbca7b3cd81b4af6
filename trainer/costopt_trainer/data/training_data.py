"""The data as training and evaluation see it: samples by number, in batches of tensors."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets on the CPU. Text: both int64 (B, T), the targets are the inputs shifted by one token. Images:
float32 (B, C, H, W) in [-1, 1], and int64 (B,)."""


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
    """Training samples by number (B,), each in [0, num_train_samples). May be called from any thread."""
    validation_batch: Callable[[NDArray[np.int64]], Batch]
    """Held-out samples by number (B,), each in [0, num_validation_samples)."""
    fingerprint: str
    """Hash of the content and of the settings that affect samples: equal fingerprints, equal samples."""
    vocabulary_size: int | None = None
    """Tokens in the vocabulary; None for images."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width); None for text."""
    num_classes: int | None = None
    """Classes; None for text."""
    validation_bytes_per_token: float | None = None
    """Bytes of text per held-out token, so that loss per byte = loss per token / this; None for images."""
    reference_entropies: dict[str, float] = field(default_factory=dict)
    """Loss of the simplest models on the held-out bytes, nats per byte, by name; empty for images."""
    notes: tuple[str, ...] = ()
    """Log lines about how the samples were made."""
