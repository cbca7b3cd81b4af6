"""Augmentations with settings, and data of each kind that they change.

augmentation, ALL      settings of one; those of each word of the manifest that the tests hold to the contract
with_augmentations     data settings with a list of them
data_of                loaded data of a kind, augmented
epoch_of               the training samples as an epoch shows them
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from builders.data import image_settings, labelled_settings, text_settings, write_images, write_labelled
from costopt.schema.augmentations import Augmentation
from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, MASKED_TEXT, TEXT
from costopt.schema.unions import key_of_word
from costopt_trainer.data import Batch, TrainingData, load_data

LENGTH = 20

NEEDED: dict[str, dict[str, Any]] = {"Synonyms": {"groups": [["cat", "kitten"], ["the", "this", "that"]]}}
"""Settings that must be given."""


def augmentation(word: str, **settings: Any) -> Augmentation:
    own = {**NEEDED.get(word, {}), **settings}
    return Augmentation.model_validate({"type": word, **({key_of_word(word): own} if own else {})})


def with_augmentations(settings: DataSettings, *augmentations: Augmentation) -> DataSettings:
    return settings.model_copy(update={"augmentations": list(augmentations)})


def settings_of_kind(kind: str, folder: Path) -> DataSettings:
    """Small real data of that kind, written to the folder if it is not there yet."""
    folder.mkdir(exist_ok=True)
    if kind == IMAGES:
        path = folder / "a.npz"
        return image_settings(path if path.exists() else write_images(path, count=60))
    if kind == LABELLED_TEXT:
        path = folder / "a.jsonl"
        return labelled_settings(path if path.exists() else write_labelled(path, count=60))
    path = folder / "texts"
    if not path.exists():
        path.mkdir()
        text = "".join(f"Zeile {number}: grüß Gott\n" for number in range(120))
        (path / "a.txt").write_text(text, encoding="utf-8")
    return text_settings(path)


def data_of(kind: str, folder: Path, *augmentations: Augmentation) -> TrainingData:
    reads = kind if kind in (TEXT, MASKED_TEXT) else TEXT
    settings = with_augmentations(settings_of_kind(kind, folder), *augmentations)
    return load_data(settings, context_length=LENGTH, cache_dir=folder / "cache", reads=reads)


def epoch_of(data: TrainingData, epoch: int = 0, seed: int = 5, samples: Any = None) -> Batch:
    """Those samples, or all training samples in order."""
    numbers = np.arange(data.num_train_samples) if samples is None else np.asarray(samples, dtype=np.int64)
    if data.batch_of_epoch is None:
        return data.train_batch(numbers)
    return data.batch_of_epoch(numbers, np.full(len(numbers), epoch, dtype=np.int64), seed)


def equal(one: Batch, other: Batch) -> bool:
    return all(a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))
