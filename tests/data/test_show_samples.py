"""What `costopt data` finds in samples and tokens that are ready-made; of a sample nothing is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.data import (
    folder_settings,
    image_settings,
    refused_in_one_sentence,
    table_settings,
    token_settings,
    write_image_folder,
    write_images,
    write_table,
)
from costopt.schema.data import DataSettings, gives_documents
from costopt.schema.data_report import ImagesReport, TableReport, TokensReport, report_in
from costopt.schema.decoder_lm import DecoderLM
from costopt.schema.models import ModelSettings
from costopt.schema.packing import Packing
from costopt.schema.recipe import Batch, Recipe
from costopt_trainer.data import load_data
from costopt_trainer.errors import NotRetryable
from costopt_trainer.show_data import shown


def recipe_of(data: DataSettings) -> Recipe:
    models = {
        "TokenShards": ModelSettings(type="DecoderLM", decoder_lm=DecoderLM(context_length=8)),
        "Table": ModelSettings(type="MLP"),
    }
    model = models.get(data.type, ModelSettings(type="ConvNet"))
    return Recipe(model=model, data=data, batch=Batch(global_batch_size=2, micro_batch_size=2), total_steps=200)


def report(data: DataSettings, storage: Path, *, sample: bool = False) -> Any:
    found = shown(recipe_of(data), storage, sample=sample)
    assert report_in(found.to_plain()) == found, "it comes through a pipe as it is"
    if sample:
        assert not storage.exists(), "nothing is written"
    return found


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Two files of 250 tokens, of which each tenth is 9."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    for name in ("a.bin", "b.bin"):
        (np.arange(250) % 10).astype("<u2").tofile(folder / name)
    return folder


@pytest.mark.parametrize("sample", [False, True])
def test_tokens_are_told_by_file_with_their_documents(tokens: Path, tmp_path: Path, sample: bool) -> None:
    found = report(token_settings(tokens, vocabulary_size=10, end_of_text_token=9), tmp_path / "run", sample=sample)
    assert isinstance(found, TokensReport)
    assert sorted((file.name, file.count) for file in found.files) == [
        (str(tokens / name), 250) for name in ("a.bin", "b.bin")
    ]
    assert (found.num_files, found.looked_at, found.highest_token, found.documents) == (2, 500, 9, 50)
    assert (found.train_tokens, found.validation_tokens) == (450, 50)
    assert (found.context_length, found.train_tokens_left_out) == (8, 450 - 56 * 8 - 1)
    assert (found.notes, found.sampled) == ([], sample)


def test_without_an_end_of_text_nobody_counts_documents(tokens: Path, tmp_path: Path) -> None:
    found = report(token_settings(tokens, vocabulary_size=10), tmp_path / "run")
    assert (found.documents, found.notes) == (None, [])


def test_an_end_of_text_that_never_comes_is_told_in_one_line(tokens: Path, tmp_path: Path) -> None:
    settings = token_settings(tokens, vocabulary_size=99, end_of_text_token=98)
    line = "endOfTextToken 98 stands nowhere in the tokens: all count as one document, and the held-out part begins "
    assert report(settings, tmp_path / "run").notes == [f"{line}within it"]
    data = load_data(settings, context_length=8, cache_dir=tmp_path / "cache")
    assert f"{line}within it" in data.notes, "a training says it in its log"


def test_an_end_of_text_that_comes_too_early_to_split_at_is_told(tmp_path: Path) -> None:
    content = np.ones(400, dtype="<u2")
    content[100] = 7
    content.tofile(tmp_path / "a.bin")
    settings = token_settings(tmp_path / "a.bin", vocabulary_size=9, end_of_text_token=7)
    [note] = load_data(settings, context_length=8, cache_dir=tmp_path / "cache").notes[:1]
    assert note == "no endOfTextToken 7 stands near the end: the held-out part begins within a document"


def test_documents_cannot_be_kept_apart_by_a_token_that_never_comes(tokens: Path, tmp_path: Path) -> None:
    settings = token_settings(tokens, vocabulary_size=99, end_of_text_token=98)
    apart = settings.model_copy(update={"packing": Packing(boundaries="Loss")})
    refused_in_one_sentence(
        apart,
        "must have the endOfTextToken, 98, behind each document, for packing.boundaries is Loss, but has it nowhere",
        tmp_path / "cache",
    )
    there = token_settings(tokens, vocabulary_size=99, end_of_text_token=9)
    load_data(
        there.model_copy(update={"packing": Packing(boundaries="Loss")}), context_length=8, cache_dir=tmp_path / "c"
    )


@pytest.mark.parametrize("sample", [False, True])
def test_images_in_folders_are_told_by_class_with_sizes_and_names(tmp_path: Path, sample: bool) -> None:
    pytest.importorskip("PIL")
    folder = write_image_folder(tmp_path / "images", count=24, side=6)
    found = report(folder_settings(folder), tmp_path / "run", sample=sample)
    assert isinstance(found, ImagesReport)
    assert found.images == sum(each.count for each in found.classes) == 24
    assert found.num_classes == len(found.classes) == len([path for path in folder.iterdir() if path.is_dir()])
    for each in found.classes:
        assert each.count == len(list((folder / each.name).iterdir()))
        assert all(name.startswith(f"{folder}/{each.name}/") for name in each.examples)
        assert len(each.examples) == min(3, each.count)
    assert [(size.name, size.count) for size in found.sizes] == [("6x6", 24)]
    assert (found.shape, found.train_images, found.validation_images) == ("6x6x3", 22, 2)


def test_a_bad_image_is_found_by_a_dry_run(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = write_image_folder(tmp_path / "images", count=24, side=6)
    next(folder.rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(NotRetryable, match="must be an image that can be decoded"):
        report(folder_settings(folder), tmp_path / "run", sample=True)
    found = report(folder_settings(folder, onBadSample="Skip", maxBadPercent=10), tmp_path / "run", sample=True)
    assert found.notes[0].startswith("1 of 24 samples are bad and left out; the first: ")
    assert [size.count for size in found.sizes] == [23]


def test_images_of_one_file_are_told_by_class(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.npz", count=40, side=8, classes=4)
    found = report(image_settings(path), tmp_path / "run", sample=True)
    with np.load(path) as arrays:
        counts = np.bincount(arrays["labels"]).tolist()
    assert isinstance(found, ImagesReport)
    assert [(each.name, each.count) for each in found.classes] == [(str(n), count) for n, count in enumerate(counts)]
    assert found.shape.startswith("8x8x")
    assert (found.train_images, found.validation_images) == (36, 4)


def test_rows_are_told_by_class_with_features_that_say_nothing(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.npz", count=60, classes=3)
    with np.load(path) as arrays:
        features, labels = arrays["features"], arrays["labels"]
    features[:, 1] = 5
    np.savez(path, features=features, labels=labels)
    found = report(table_settings(path), tmp_path / "run", sample=True)
    assert isinstance(found, TableReport)
    assert (found.rows, found.features, found.constant_features) == (60, features.shape[1], 1)
    assert [each.count for each in found.classes] == np.bincount(labels).tolist()
    assert (found.train_rows, found.validation_rows) == (54, 6)


def test_missing_values_are_counted_where_they_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.npz", count=60, classes=3)
    with np.load(path) as arrays:
        features, labels = arrays["features"], arrays["labels"]
    features[3, :2] = np.nan
    features[7, 1] = np.nan
    np.savez(path, features=features, labels=labels)
    refused_in_one_sentence(
        table_settings(path),
        "feature 0 of row 3 is nan; such values: 3, in 2 of 60 rows; fill what is missing",
        tmp_path / "cache",
    )


def test_every_source_is_shown_in_one_way_or_the_other(tokens: Path) -> None:
    assert not gives_documents(token_settings(tokens))
    assert not gives_documents(image_settings("a.npz"))
    assert gives_documents(DataSettings(type="PythonStandardLibrary"))
