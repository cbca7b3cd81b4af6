"""The table of sources: each row does what is asked of one, and a new row is all that a new source needs."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.data import (
    folder_settings,
    image_settings,
    labelled_settings,
    records_settings,
    table_settings,
    text_settings,
    token_settings,
    write_image_folder,
    write_images,
    write_labelled,
    write_table,
)
from costopt.schema.data import DataSettings
from costopt.schema.data_report import SamplesReport
from costopt.schema.text_sources import PythonStandardLibraryData
from costopt_trainer.data import load_data
from costopt_trainer.data.documents import SEPARATOR, Document, content_of, joined
from costopt_trainer.data.sources.table import SOURCES, MixedSource, SampleSource, TokenSource, open_source
from costopt_trainer.data.training_data import TrainingData


def settings_of(word: str, folder: Path) -> DataSettings:
    """Settings under which the source has something to read."""
    if word == "Text":
        for name in ("a", "b"):
            (folder / f"{name}.txt").write_text(f"{name} grüßt 東京\n" * 100, encoding="utf-8")
        return text_settings(folder)
    if word == "Images":
        return image_settings(write_images(folder / "images.npz"))
    if word == "Records":
        return records_settings(write_labelled(folder / "records.jsonl"))
    if word == "LabelledText":
        return labelled_settings(write_labelled(folder / "documents.jsonl"))
    if word == "ImageFolder":
        return folder_settings(write_image_folder(folder / "images"))
    if word == "TokenShards":
        (np.arange(900) % 90).astype("<u2").tofile(folder / "a.bin")
        return token_settings(folder)
    if word == "Mixture":
        parts = [
            {"name": name, name: {"path": str(folder / file)}}
            for name, file in (("text", "a.txt"), ("records", "b.jsonl"))
        ]
        (folder / "a.txt").write_text("a text of its own\n" * 100)
        write_labelled(folder / "b.jsonl")
        return DataSettings.model_validate({"type": "Mixture", "mixture": {"sources": parts}})
    if word == "Table":
        return table_settings(write_table(folder / "table.npz"))
    limits = PythonStandardLibraryData(max_bytes=200_000)
    return DataSettings(type="PythonStandardLibrary", python_standard_library=limits)


def test_every_word_of_the_language_has_a_row_and_every_row_a_word() -> None:
    assert set(SOURCES) == set(typing.get_args(DataSettings.model_fields["type"].annotation))


@pytest.mark.parametrize("word", SOURCES)
def test_a_source_gives_documents_or_samples_and_the_same_at_every_call(word: str, tmp_path: Path) -> None:
    source = open_source(settings_of(word, tmp_path), tmp_path / "own", tmp_path / "cache")
    if isinstance(source, SampleSource):
        first, second = source.samples(), source.samples()
        assert first.fingerprint == second.fingerprint
        assert first.num_train_samples >= 1
        assert first.num_validation_samples >= 1
        for one, other in zip(first.train_batch(np.arange(1)), second.train_batch(np.arange(1)), strict=True):
            assert len(one) == 1
            assert (one == other).all()
        return
    if isinstance(source, MixedSource):
        assert [part.name for part in source.parts] == ["text", "records"]
        return
    if isinstance(source, TokenSource):
        assert source.token_shards().key == source.token_shards().key
        assert re.match(r"data\.\w+.*: .+", source.name)
        return
    assert re.match(r"data\.\w+.*: .+", source.name)
    documents = list(source.documents())
    for document in documents:
        assert document.name
        pieces = list(document.pieces())
        assert pieces == list(document.pieces())
        assert all(0 < len(piece) <= 2 << 20 for piece in pieces)
        "".join(piece.decode() for piece in pieces)
    content = content_of(documents)
    assert content == content_of(source.documents())
    assert content.num_bytes == len(b"".join(joined(documents)))
    assert set(content.sums) == {document.file or document.name for document in documents}


@pytest.mark.parametrize("word", SOURCES)
def test_the_samples_of_a_source_change_their_fingerprint_with_its_content(word: str, tmp_path: Path) -> None:
    settings = settings_of(word, tmp_path)
    before = load_data(settings, context_length=8, cache_dir=tmp_path / "cache").fingerprint
    assert before == load_data(settings, context_length=8, cache_dir=tmp_path / "cache").fingerprint
    if word == "Text":
        (tmp_path / "a.txt").write_text("another text " * 100)
    elif word in ("Records", "LabelledText"):
        write_labelled(tmp_path / f"{'records' if word == 'Records' else 'documents'}.jsonl", count=44)
    elif word == "ImageFolder":
        (tmp_path / "images/red/0.png").unlink()
    elif word == "TokenShards":
        (np.arange(900) % 91).astype("<u2").tofile(tmp_path / "a.bin")
    elif word == "Images":
        write_images(tmp_path / "images.npz", count=44)
    else:
        limits = PythonStandardLibraryData(max_bytes=100_000)
        settings = DataSettings(type="PythonStandardLibrary", python_standard_library=limits)
    assert before != load_data(settings, context_length=8, cache_dir=tmp_path / "cache").fingerprint


class Counting:
    """A throw-away source of documents: numbers in words."""

    name = "data.counting: 0 to 99"
    notes = ("counted to 99",)

    def __init__(self, _settings: DataSettings, _own_folder: Path | None, _cache_dir: Path | None) -> None:
        pass

    def documents(self) -> Iterator[Document]:
        for number in range(100):
            yield Document(str(number), lambda number=number: iter([f"number {number}".encode()]))


class Noise:
    """A throw-away source of samples."""

    def __init__(self, _settings: DataSettings, _own_folder: Path | None, _cache_dir: Path | None) -> None:
        pass

    def samples(self) -> TrainingData:
        batch: Any = lambda numbers: (numbers, numbers)  # noqa: E731
        return TrainingData(3, 1, 1, batch, batch, "noise")

    def report(self, *, sample: bool) -> SamplesReport:
        return SamplesReport(source="noise", sampled=sample)


def add_row(word: str, source: type, monkeypatch: pytest.MonkeyPatch) -> DataSettings:
    """Put a row into the table; the result is settings that name it."""
    monkeypatch.setitem(SOURCES, word, f"{__name__}:{source.__name__}")
    plain = text_settings(Path("unused"))
    return plain.model_copy(update={"type": word, "text": None})


def test_a_new_source_of_documents_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(add_row("Counting", Counting, monkeypatch), context_length=8, cache_dir=tmp_path)
    inputs, _ = data.train_batch(np.arange(data.num_train_samples))
    text = bytes(inputs.numpy().reshape(-1).astype(np.uint8))
    assert text.startswith(b"number 0" + SEPARATOR + b"number 1" + SEPARATOR)
    assert data.vocabulary_size == 256
    assert data.notes[0] == "counted to 99"


def test_a_new_source_of_samples_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(add_row("Noise", Noise, monkeypatch), context_length=None, cache_dir=tmp_path)
    assert (data.num_train_samples, data.fingerprint) == (3, "noise")
    assert list(tmp_path.iterdir()) == [], "samples that are ready need no tokens"
