"""Data settings and small real inputs for tests."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from costopt.schema.data import DataSettings, ImageData, LabelledTextData, TableData, TextData, Tokenizer
from costopt_trainer.data import load_data
from costopt_trainer.errors import NotRetryable

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def text_settings(
    path: Path,
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


def image_settings(path: Path, *, validation_percent: int = 10) -> DataSettings:
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


def labelled_settings(
    path: Path, *, tokenizer: Tokenizer | None = None, validation_percent: int = 10, **fields: str
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
