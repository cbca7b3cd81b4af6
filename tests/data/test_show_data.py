"""What a recipe's data becomes, without a training: of all of it, or of a sample with nothing written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.data import text_settings
from builders.hugging_face import write_tokenizer
from builders.transforms import PROSE, settings_of
from costopt.schema.data import DataSettings, Tokenizer
from costopt.schema.decoder_lm import DecoderLM
from costopt.schema.encoder import Encoder
from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Batch, Recipe
from costopt_trainer import show_data
from costopt_trainer.data import load_data
from costopt_trainer.errors import NotRetryable
from costopt_trainer.show_data import report_of, report_of_sample, reports_of, with_left_out


def recipe_of(data: DataSettings) -> Recipe:
    model = ModelSettings(type="DecoderLM", decoder_lm=DecoderLM(context_length=8))
    return Recipe(model=model, data=data, batch=Batch(global_batch_size=2, micro_batch_size=2), total_steps=200)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(
            f"{number}\u0308 {PROSE[number:]}\n\n\n\n{number}{PROSE}\n" * (number % 3 + 1)
        )
    for number in range(3):
        (folder / f"short{number}.txt").write_text("short")
    return folder


TRANSFORMS = [
    settings_of("NormalizeUnicode"),
    settings_of("NormalizeWhitespace"),
    settings_of("FilterQuality", repeatedPhrases="Keep", maxRepeatedCharactersPercent=90, maxRepeatedLinesPercent=90),
    settings_of("RemoveDuplicates", similarityPercent=100),
]


@pytest.mark.parametrize("tokenizer", [Tokenizer(), Tokenizer(type="BPE", vocabulary_size=300)], ids=["bytes", "BPE"])
@pytest.mark.parametrize("transforms", [None, TRANSFORMS], ids=["plain", "cleaned"])
def test_a_sample_of_everything_is_told_as_everything(
    texts: Path, tmp_path: Path, tokenizer: Tokenizer, transforms: list[Any] | None
) -> None:
    data = text_settings(texts, tokenizer=tokenizer).model_copy(update={"transforms": transforms})
    sampled = report_of_sample(recipe_of(data), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    whole = report_of(recipe_of(data), tmp_path / "run")
    assert sampled == whole.model_copy(update={"sampled": True})
    assert whole.documents == 33
    assert whole.documents_left == (33 if transforms is None else 30)


def test_a_training_finds_what_was_made(texts: Path, tmp_path: Path) -> None:
    data = text_settings(texts).model_copy(update={"transforms": TRANSFORMS})
    report_of(recipe_of(data), tmp_path / "run")
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cache").glob("*/*")}
    load_data(data, context_length=8, cache_dir=tmp_path / "run" / "cache", own_folder=tmp_path / "run")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cache").glob("*/*")} == made


def test_tokens_without_a_report_are_made_again(texts: Path, tmp_path: Path) -> None:
    first = report_of(recipe_of(text_settings(texts)), tmp_path)
    (path,) = (tmp_path / "cache").glob("*.report.json")
    for spoil in (path.unlink, lambda: path.write_text('{"source": 3}')):
        spoil()
        assert report_of(recipe_of(text_settings(texts)), tmp_path) == first


def test_a_sample_is_small(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show_data, "SAMPLE_DOCUMENTS", 5)
    assert report_of_sample(recipe_of(text_settings(texts)), tmp_path / "run").documents == 5


def test_a_sample_ends_when_it_is_large_enough(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = report_of(recipe_of(text_settings(texts)), tmp_path / "run").bytes
    monkeypatch.setattr(show_data, "SAMPLE_BYTES", 3_000)
    report = report_of_sample(recipe_of(text_settings(texts)), tmp_path / "run")
    assert 1 <= report.documents < 33
    assert 3_000 <= report.bytes < sizes
    assert report.longest_bytes < 4_000


def test_of_a_large_document_the_sample_is_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show_data, "SAMPLE_BYTES", 1 << 20)
    (tmp_path / "a.txt").write_text("word " * 900_000)
    report = report_of_sample(recipe_of(text_settings(tmp_path / "a.txt")), tmp_path / "run")
    assert (report.documents, report.bytes) == (1, 1 << 20)


@pytest.mark.parametrize("make", [report_of, report_of_sample])
def test_what_is_wrong_with_the_data_is_said_as_a_training_says_it(tmp_path: Path, make: Any) -> None:
    with pytest.raises(NotRetryable, match="must exist on the machine"):
        make(recipe_of(text_settings(tmp_path / "missing")), tmp_path / "run")


def test_tokens_that_fill_no_sample_are_told(texts: Path, tmp_path: Path) -> None:
    recipe = recipe_of(text_settings(texts))
    told = with_left_out(report_of(recipe, tmp_path), recipe)
    data = load_data(recipe.data, context_length=8, cache_dir=tmp_path / "cache")
    assert told.train_tokens == 8 * data.num_train_samples + 1 + (told.train_tokens_left_out or 0)
    assert told.validation_tokens == 8 * data.num_validation_samples + 1 + (told.validation_tokens_left_out or 0)
    assert (told.context_length, told.train_tokens_left_out) == (8, (told.train_tokens - 1) % 8)
    classifier = recipe.model_copy(
        update={"model": ModelSettings(type="Encoder", encoder=Encoder(task="Classification"))}
    )
    assert with_left_out(report_of(recipe, tmp_path), classifier).context_length is None, "documents are samples"


def test_a_text_that_is_too_short_for_the_model_is_refused_as_a_training_would(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    report = report_of(recipe_of(text_settings(tmp_path / "a.txt")), tmp_path / "run")
    with pytest.raises(NotRetryable, match=r"a.txt must give at least 9 tokens .*, but gives 5"):
        with_left_out(report, recipe_of(text_settings(tmp_path / "a.txt")))


def test_samples_that_were_left_out_are_told(tmp_path: Path) -> None:
    lines = [json.dumps({"text": PROSE}), "{broken", *[json.dumps({"text": PROSE})] * 8]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    records = {"path": str(tmp_path / "a.jsonl"), "onBadSample": "Skip", "maxBadPercent": 10}
    report = report_of(
        recipe_of(DataSettings.model_validate({"type": "Records", "records": records})), tmp_path / "run"
    )
    (note,) = report.notes
    assert "1 of 10 samples are bad and left out; the first: " in note
    assert "line 2" in note


def test_an_empty_file_is_told_also_of_a_sample(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text(PROSE)
    (tmp_path / "texts/b.txt").touch()
    recipe = recipe_of(text_settings(tmp_path / "texts"))
    for report in (report_of(recipe, tmp_path / "run"), report_of_sample(recipe, tmp_path / "run")):
        assert report.notes == [f"1 of 2 files are empty and left out; the first: {tmp_path}/texts/b.txt"]


def test_of_a_mixture_each_source_is_told_and_a_training_finds_the_tokens(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(PROSE * 9)
    sources = [{"name": "many", "text": {"path": str(texts)}}, {"name": "own", "text": {"path": f"{tmp_path}/own.txt"}}]
    data = DataSettings.model_validate(
        {"type": "Mixture", "mixture": {"sources": sources}, "tokenizer": {"type": "BPE", "vocabularySize": 300}}
    )
    recipe = recipe_of(data)
    sampled = reports_of(recipe, tmp_path / "run", sample=True)
    assert not (tmp_path / "run").exists()
    whole = reports_of(recipe, tmp_path / "run", sample=False)
    assert [report.source.partition(":")[0] for report in whole] == ["many", "own"]
    assert [report.documents for report in sampled] == [report.documents for report in whole] == [33, 1]
    assert whole[0].vocabulary_size == whole[1].vocabulary_size
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cache").glob("*/*")}
    load_data(data, context_length=8, cache_dir=tmp_path / "run" / "cache", own_folder=tmp_path / "run")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cache").glob("*/*")} == made


@pytest.mark.parametrize("sample", [True, False])
def test_a_mixture_of_two_vocabularies_is_refused_as_a_training_refuses_it(
    sample: bool, texts: Path, tmp_path: Path
) -> None:
    np.arange(4000, dtype="<u2").tofile(tmp_path / "made.bin")
    shards = {"path": f"{tmp_path}/made.bin", "vocabularySize": 5000}
    sources = [{"name": "many", "text": {"path": str(texts)}}, {"name": "made", "tokenShards": shards}]
    given = {"type": "HuggingFace", "path": str(write_tokenizer(tmp_path / "own", "gpt2"))}
    mixture = {"type": "Mixture", "mixture": {"sources": sources}, "tokenizer": given}
    recipe = recipe_of(DataSettings.model_validate(mixture))
    with pytest.raises(NotRetryable, match=r"vocabulary size of many is \d+ and that of made is 5000: give"):
        reports_of(recipe, tmp_path / "run", sample=sample)


def test_the_same_documents_at_another_place_are_told_by_their_own_name(texts: Path, tmp_path: Path) -> None:
    first = report_of(recipe_of(text_settings(texts)), tmp_path / "run")
    (tmp_path / "others").symlink_to(texts)
    second = report_of(recipe_of(text_settings(tmp_path / "others")), tmp_path / "run")
    assert second.source == first.source.replace("texts", "others") != first.source
    assert second.notes == [f"the same documents were read before at {first.source}: names of documents are of there"]
    assert second.documents == first.documents
