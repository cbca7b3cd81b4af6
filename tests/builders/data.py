"""Data settings and small real inputs for tests."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from costopt.schema.data import (
    DataSettings,
    ImageData,
    ImageFolderData,
    LabelledTextData,
    TableData,
    Tokenizer,
)
from costopt.schema.text_sources import RecordsData, TextData, TokenShardsData
from costopt_trainer.data import load_data
from costopt_trainer.errors import NotRetryable

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def text_settings(
    path: Path | str,
    *,
    include: str = "*.txt",
    max_bytes: int | None = None,
    tokenizer: Tokenizer | None = None,
    validation_percent: int = 10,
) -> DataSettings:
    return DataSettings(
        type="Text",
        text=TextData(path=str(path), include=include, max_bytes=max_bytes),
        tokenizer=tokenizer or Tokenizer(),
        validation_percent=validation_percent,
    )


def image_settings(path: Path | str, *, validation_percent: int = 10) -> DataSettings:
    return DataSettings(type="Images", images=ImageData(path=str(path)), validation_percent=validation_percent)


def write_images(path: Path, *, count: int = 40, side: int = 8, classes: int = 4) -> Path:
    """Noise images with a bright quadrant whose place is the class; sorted by class."""
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(count) % classes)
    images = rng.integers(0, 100, size=(count, side, side), dtype=np.uint8)
    half = side // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label) % 4, 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 150
    np.savez(path, images=images, labels=labels)
    return path


DIGITS = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "01110 10001 00001 00110 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
"""Rows of dots."""


def write_digits(path: Path, *, count: int = 2000, side: int = 12, noise: int = 60) -> Path:
    """Digits anywhere in noisy images; a small network tells them apart, and not at once."""
    rng = np.random.default_rng(0)
    glyphs = np.array([[[int(dot) for dot in row] for row in digit.split()] for digit in DIGITS], dtype=np.uint8)
    labels = np.arange(count) % 10
    images = rng.integers(0, noise, size=(count, side, side), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = rng.integers(0, side - 6), rng.integers(0, side - 4)
        image[row : row + 7, column : column + 5] += glyphs[label] * rng.integers(80, 130, dtype=np.uint8)
    np.savez(path, images=images, labels=labels)
    return path


def records_settings(
    path: Path | str | None = None, *, tokenizer: Tokenizer | None = None, validation_percent: int = 10, **fields: Any
) -> DataSettings:
    place = {} if path is None else {"path": str(path)}
    return DataSettings(
        type="Records",
        records=RecordsData.model_validate({**place, **fields}),
        tokenizer=tokenizer or Tokenizer(),
        validation_percent=validation_percent,
    )


def token_settings(
    path: Path | str, *, vocabulary_size: int = 100, validation_percent: int = 10, **fields: Any
) -> DataSettings:
    return DataSettings(
        type="TokenShards",
        token_shards=TokenShardsData.model_validate({"path": str(path), "vocabularySize": vocabulary_size, **fields}),
        validation_percent=validation_percent,
    )


def labelled_settings(
    path: Path | str, *, tokenizer: Tokenizer | None = None, validation_percent: int = 10, **fields: Any
) -> DataSettings:
    return DataSettings(
        type="LabelledText",
        labelled_text=LabelledTextData.model_validate({"path": str(path), **fields}),
        tokenizer=tokenizer or Tokenizer(),
        validation_percent=validation_percent,
    )


def write_labelled(path: Path, *, count: int = 40) -> Path:
    """Documents of different lengths, each with the label of the animal in it; sorted by label."""
    rng = np.random.default_rng(0)
    animals = sorted(("cat", "dog", "owl")[number % 3] for number in range(count))
    words = ["grün", "a", "the", "one", "tree", "wall", "of", "sees"]
    with path.open("w", encoding="utf-8") as stream:
        for animal in animals:
            others = [words[number] for number in rng.integers(0, len(words), int(rng.integers(1, 7)))]
            others.insert(int(rng.integers(0, len(others) + 1)), animal)
            line = {"text": " ".join(others), "label": animal}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def refused_in_one_sentence(settings: DataSettings, sentence: str, cache: Path) -> None:
    """Check that loading fails with a sentence that matches."""
    with pytest.raises(NotRetryable, match=sentence) as caught:
        load_data(settings, context_length=32, cache_dir=cache)
    assert caught.value.reason == "InvalidData"
    assert "\n" not in str(caught.value)
    assert " must " in str(caught.value)


def folder_settings(path: Path | str, *, validation_percent: int = 10, **fields: Any) -> DataSettings:
    return DataSettings(
        type="ImageFolder",
        image_folder=ImageFolderData.model_validate({"path": str(path), **fields}),
        validation_percent=validation_percent,
    )


def write_image_folder(path: Path, *, count: int = 24, side: int = 6, ends: tuple[str, ...] = (".png",)) -> Path:
    """Noise images, those of each class with a bright channel of its own."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 100, size=(side, side, 3), dtype=np.uint8)
        pixels[..., number % 3] += 150
        folder = path / ("red", "green", "blue")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}{ends[number % len(ends)]}")
    return path


def table_settings(path: Path, *, validation_percent: int = 10) -> DataSettings:
    return DataSettings(type="Table", table=TableData(path=str(path)), validation_percent=validation_percent)


def write_table(path: Path, *, count: int = 60, classes: int = 3) -> Path:
    """Rows of five features of very different sizes, of which the first two tell the class; sorted by class."""
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(count) % classes)
    features = rng.normal(size=(count, 5))
    features[:, 0] += 3 * labels
    features[:, 1] -= 3 * (labels == 1)
    np.savez(path, features=1000 + features * 10.0 ** np.arange(5), labels=labels)
    return path


def real_text() -> Path:
    """Tiny Shakespeare below COSTOPT_DATA_DIR; skips the test without it."""
    folder = Path(os.environ.get("COSTOPT_DATA_DIR", PROJECT_ROOT.parent / "shared" / "data"))
    path = folder / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in the folder that COSTOPT_DATA_DIR names")
    return path
