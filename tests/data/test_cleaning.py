"""Documents through all transforms: what is dropped is counted, told, in neither split, and asked about once."""

import json
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.data import labelled_settings, refused_in_one_sentence, text_settings
from builders.transforms import PROSE, document, documents, settings_of, text_of, transform
from costopt.schema.data import DataSettings
from costopt.schema.data_report import MOST_REASONS, DataReport, Example, TransformReport
from costopt_trainer.data import TrainingData, gathering, load_data
from costopt_trainer.data.documents import Document, Tally, content_of
from costopt_trainer.data.reports import saved_in
from costopt_trainer.data.sources.table import open_source
from costopt_trainer.data.transforms import table
from costopt_trainer.data.transforms.examples import changed_example, dropped_example, shown
from costopt_trainer.data.transforms.filter_quality import FilterQuality
from costopt_trainer.data.transforms.judges import EachForItself
from costopt_trainer.data.transforms.pipeline import Pipeline, held_out_from
from costopt_trainer.data.transforms.table import Verdict
from costopt_trainer.errors import NotRetryable

SHORT = "too short to stay"


def prose(number: int) -> str:
    """Running text of its own."""
    source = random.Random(number)
    words = PROSE.split()
    return " ".join(source.sample(words, len(words)))


def write(folder: Path, texts: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Twenty documents of prose, of which two are there twice; and four that are too short."""
    different = {f"doc{number}": prose(number) for number in range(18)}
    twice = {f"again{number}": prose(number) for number in (3, 7)}
    return write(tmp_path / "texts", {**different, **twice, **{f"short{number}": SHORT for number in range(4)}})


def with_transforms(plain: DataSettings, *transforms: Any) -> DataSettings:
    return plain.model_copy(update={"transforms": list(transforms)})


CLEAN = (settings_of("NormalizeWhitespace"), settings_of("FilterQuality"), settings_of("RemoveDuplicates"))


def loaded(wanted: DataSettings, cache: Path) -> TrainingData:
    return load_data(wanted, context_length=8, cache_dir=cache)


def split_text(data: TrainingData, split: str) -> str:
    if split == "train":
        inputs, _ = data.train_batch(np.arange(data.num_train_samples))
    else:
        inputs, _ = data.validation_batch(np.arange(data.num_validation_samples))
    return bytes(inputs.numpy().reshape(-1).astype(np.uint8)).decode()


def numbers_in(data: TrainingData, split: str, count: int) -> set[int]:
    """Of the documents `prose(number)`, those that begin in a split."""
    text = split_text(data, split)
    return {number for number in range(count) if prose(number)[:80] in text}


def report_of(cache: Path) -> DataReport:
    (path,) = cache.glob("*.report.json")
    return DataReport.model_validate(json.loads(path.read_text()))


def test_what_is_dropped_is_in_neither_split_and_is_counted_and_told(texts: Path, tmp_path: Path) -> None:
    data = loaded(with_transforms(text_settings(texts), *CLEAN), tmp_path / "cache")
    everything = split_text(data, "train") + split_text(data, "validation")
    assert SHORT not in everything
    report = report_of(tmp_path / "cache")
    white, quality, duplicates = report.transforms
    assert (white.documents, white.changed, white.dropped) == (24, 0, 0)
    assert (quality.documents, quality.dropped, quality.reasons) == (24, 4, {"fewer than 50 words": 4})
    assert (duplicates.documents, duplicates.dropped) == (20, 2)
    assert sum(duplicates.reasons.values()) == 2
    assert quality.bytes_before - quality.bytes_after == 4 * len(SHORT)
    assert (report.documents, report.documents_left) == (24, 18)
    assert report.train_tokens + report.validation_tokens == duplicates.bytes_after + report.documents_left - 1
    assert "FilterQuality changed 0 of 24 documents, dropped 4 (fewer than 50 words 4): " in data.notes[1]
    share = 100 * report.validation_tokens / (report.train_tokens + report.validation_tokens)
    assert data.notes[3] == f"{report.held_out_documents} of 18 documents are held out, {share:.1f} % of the tokens"
    assert saved_in(data.notes, 256) == (
        "FilterQuality dropped 4 of 24 documents; RemoveDuplicates dropped 2 of 20 documents"
    )
    assert saved_in((f"a: {data.notes[1]}",), 30) == "a: FilterQuality dropped 4 ..."
    assert any(f"{SHORT}" in note and "(fewer than 50 words)" in note for note in data.notes[4:])


def test_the_second_start_tells_the_same_and_asks_nothing(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = with_transforms(text_settings(texts), *CLEAN)
    asked: list[str] = []
    verdict = FilterQuality.verdict

    def counted(self: FilterQuality, one: Document) -> Verdict | None:
        asked.append(one.name)
        return verdict(self, one)

    monkeypatch.setattr(FilterQuality, "verdict", counted)
    first = loaded(cleaned, tmp_path / "cache")
    assert sorted(asked) == sorted(map(str, texts.iterdir())), "each once, though the text is read many times"
    again = loaded(cleaned, tmp_path / "cache")
    assert len(asked) == 24
    assert (again.notes, again.fingerprint) == (first.notes, first.fingerprint)
    assert not list((tmp_path / "cache").glob(".*.text"))


def test_documents_are_held_out_whole_and_none_to_train_on_is_like_them(texts: Path, tmp_path: Path) -> None:
    data = loaded(with_transforms(text_settings(texts, validation_percent=30), *CLEAN), tmp_path / "cache")
    validation = split_text(data, "validation")
    assert numbers_in(data, "train", 18) & numbers_in(data, "validation", 18) == set()
    ends = [number for number in range(18) if prose(number)[20:-20] in validation]
    held_out = report_of(tmp_path / "cache").held_out_documents
    assert held_out is not None
    assert len(ends) in (held_out, held_out - 1), "the last sample may be cut"
    assert 4 <= held_out <= 8


def test_what_is_held_out_is_looked_at_first(tmp_path: Path) -> None:
    given_texts = {f"d{number}": prose(number % 10) for number in range(40)}  # each four times
    folder = write(tmp_path / "texts", given_texts)
    plain = loaded(text_settings(folder, validation_percent=30), tmp_path / "plain")
    assert numbers_in(plain, "train", 10) & numbers_in(plain, "validation", 10)
    cleaned = with_transforms(text_settings(folder, validation_percent=30), settings_of("RemoveDuplicates"))
    data = loaded(cleaned, tmp_path / "cache")
    held_out, to_train_on = numbers_in(data, "validation", 10), numbers_in(data, "train", 10)
    assert held_out
    assert held_out & to_train_on == set()
    assert held_out | to_train_on == set(range(10))
    (told,) = report_of(tmp_path / "cache").transforms
    assert "equal to a held-out document" in told.reasons


def test_a_single_document_is_held_out_in_part(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {"a": PROSE * 3})
    lenient = settings_of("FilterQuality", repeatedPhrases="Keep", maxRepeatedCharactersPercent=100)
    data = loaded(with_transforms(text_settings(folder), lenient), tmp_path / "cache")
    plain = loaded(text_settings(folder), tmp_path / "plain")
    for split in ("train", "validation"):
        assert split_text(data, split) == split_text(plain, split)
    assert report_of(tmp_path / "cache").held_out_documents is None


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=30), st.integers(1, 50))
def test_the_last_documents_are_held_out_near_the_border(sizes: list[int], percent: int) -> None:
    content = content_of((document(f"{number}", "x" * size) for number, size in enumerate(sizes)), with_names=True)
    held_out = held_out_from(content, percent)
    if len(sizes) == 1:
        assert held_out == frozenset()
        return
    first = len(sizes) - len(held_out)
    assert 1 <= first < len(sizes), "at least one on each side"
    assert held_out == {f"{number}" for number in range(first, len(sizes))}
    starts = [sum(sizes[:number]) + number for number in range(len(sizes))]
    border = content.num_bytes - content.num_bytes * percent // 100
    assert abs(starts[first] - border) == min(abs(start - border) for start in starts[1:])


# Labels.


def write_labelled(path: Path, lines: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in lines))
    return path


def labels_by_text(data: TrainingData) -> dict[str, str]:
    assert data.class_names is not None
    found = {}
    splits = ((data.train_batch, data.num_train_samples), (data.validation_batch, data.num_validation_samples))
    for batch, count in splits:
        inputs, classes = batch(np.arange(count))
        for row, number in zip(inputs.numpy(), classes.tolist(), strict=True):
            found[bytes(row[row < 256].tolist()).decode()] = data.class_names[number]
    return found


def test_labels_of_dropped_documents_go_with_them(tmp_path: Path) -> None:
    lines = [(prose(number), f"class {number % 3}") for number in range(30)]
    path = write_labelled(tmp_path / "a.jsonl", [*lines, *[(SHORT, "class 1")] * 5, *lines[:6]])
    cleaned = with_transforms(labelled_settings(path), *CLEAN)
    for _ in range(2):  # made, then from the cache
        data = load_data(cleaned, context_length=600, cache_dir=tmp_path / "cache")
        assert labels_by_text(data) == dict(lines)
        assert data.num_train_samples + data.num_validation_samples == 30


def test_a_class_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    lines = [(prose(number), "long") for number in range(30)] + [(f"{SHORT} {number}", "short") for number in range(30)]
    labelled = labelled_settings(write_labelled(tmp_path / "a.jsonl", lines))
    sentence = "must leave training documents of each label, but dropped all of 'short'"
    refused_in_one_sentence(with_transforms(labelled, settings_of("FilterQuality")), sentence, tmp_path)


# Mistakes.


def test_a_filter_that_drops_everything_is_refused_with_its_reasons(texts: Path, tmp_path: Path) -> None:
    cleaned = with_transforms(text_settings(texts), settings_of("FilterQuality", minWords=1000))
    sentence = r"must leave documents to train on, but all were dropped: loosen .*fewer than 1000 words 24"
    refused_in_one_sentence(cleaned, sentence, tmp_path / "cache")
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()], "nothing is left behind"


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    labelled = labelled_settings(write_labelled(tmp_path / "a.jsonl", [(prose(1), "a"), (prose(1), "b")] * 10))
    sentence = "must leave documents to train on, but only held-out ones are left: loosen these settings, give more"
    refused_in_one_sentence(with_transforms(labelled, settings_of("RemoveDuplicates")), sentence, tmp_path / "cache")


def test_held_out_documents_that_are_all_dropped_are_missed(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {f"d{number}": prose(number) for number in range(12)})
    last = held_out_from(content_of(source_documents(folder), with_names=True), 10)
    for name in last:
        Path(name).write_text("1 " * 200)
    assert held_out_from(content_of(source_documents(folder), with_names=True), 10) == last
    cleaned = with_transforms(text_settings(folder), settings_of("FilterQuality"))
    sentence = "must leave held-out documents, but all of these were dropped: .* or a larger data.validationPercent"
    refused_in_one_sentence(cleaned, sentence, tmp_path / "cache")


def source_documents(folder: Path) -> Iterator[Document]:
    return open_source(text_settings(folder)).documents()  # type: ignore[union-attr]


def test_a_missing_package_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.PACKAGES, "FilterLanguage", ("no_such_package", "no-such-package"))
    cleaned = with_transforms(text_settings(tmp_path / "missing"), *CLEAN, settings_of("FilterLanguage"))
    sentence = r"but no-such-package \(for FilterLanguage\) is not installed: install costopt\[data\]$"
    with pytest.raises(NotRetryable, match=sentence) as caught:
        loaded(cleaned, tmp_path)
    assert caught.value.reason == "InvalidSettings"


# After a kill, and damage.


class Killed(BaseException):
    """As sudden as SIGKILL: nothing is tidied up after it."""


@pytest.mark.parametrize("harm", ["none", "stream.bin", "text.json", "dropped.bin", "another key"])
def test_after_a_kill_the_text_need_not_be_transformed_again(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    cleaned = with_transforms(text_settings(texts), *CLEAN)
    whole = loaded(cleaned, tmp_path / "whole")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(gathering, "PairCounts", killed)
        with pytest.raises(Killed):
            loaded(cleaned, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").glob(".*.text")
    if harm == "another key":
        contents = json.loads((folder / "text.json").read_text())
        (folder / "text.json").write_text(json.dumps({**contents, "key": "0" * 64}))
    elif harm != "none":
        content = (folder / harm).read_bytes()
        (folder / harm).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    asked: list[object] = []
    verdict = FilterQuality.verdict
    monkeypatch.setattr(FilterQuality, "verdict", lambda self, one: (asked.append(one), verdict(self, one))[1])
    data = loaded(cleaned, tmp_path / "cache")
    assert bool(asked) == (harm != "none")
    assert (data.fingerprint, data.notes) == (whole.fingerprint, whole.notes)
    assert split_text(data, "train") == split_text(whole, "train")


def test_a_damaged_list_of_dropped_documents_is_made_again(texts: Path, tmp_path: Path) -> None:
    cleaned = with_transforms(text_settings(texts), *CLEAN)
    first = loaded(cleaned, tmp_path)
    (path,) = tmp_path.glob("*/dropped.bin")
    places = np.frombuffer(path.read_bytes(), dtype="<i8")
    assert len(places) == 6
    path.write_bytes(places[::-1].tobytes())
    assert loaded(cleaned, tmp_path).notes == first.notes
    assert (np.frombuffer(path.read_bytes(), dtype="<i8") == places).all()


# The pipeline by itself.


def run(
    made: list[table.Transform], texts: dict[str, str], held_out: Collection[str] = ()
) -> tuple[dict[str, str], tuple[TransformReport, ...]]:
    """What stays, and the reports."""
    pipeline = Pipeline(lambda: iter(documents(texts)), made, held_out.__contains__)
    pipeline.judge()
    tallies = [Tally() for _ in range(len(made) + 1)]
    left = {one.name: text_of(one) for one in pipeline.documents(tallies)}
    return left, pipeline.reports([table.word_of(one) for one in made], tallies)


TEXTS = [PROSE, prose(1), prose(2), SHORT, "", f"{prose(3)} a@b.org", f"{prose(3)} c@d.org"]
CHAIN = ["NormalizeWhitespace", "MaskPersonalData", "FilterQuality", "RemoveDuplicates"]


@given(st.lists(st.sampled_from(TEXTS), max_size=10), st.permutations(CHAIN))
@settings(max_examples=25)
def test_what_stays_is_in_order_and_each_document_is_counted_once(given_texts: list[str], words: list[str]) -> None:
    texts = {f"{number}": text for number, text in enumerate(given_texts)}
    held_out = [name for name in texts if int(name) >= 7]
    left, reports = run([transform(word) for word in words], texts, held_out)
    assert list(left) == [name for name in texts if name in left]
    before = (len(texts), sum(len(text.encode()) for text in texts.values()))
    for report in reports:
        assert (report.documents, report.bytes_before) == before
        assert sum(report.reasons.values()) == report.dropped
        before = (report.documents - report.dropped, report.bytes_after)
    assert before == (len(left), sum(len(text.encode()) for text in left.values()))


@given(st.lists(st.sampled_from(TEXTS), max_size=10))
@settings(max_examples=20)
def test_what_is_clean_stays_as_it_is(given_texts: list[str]) -> None:
    texts = {f"{number}": text for number, text in enumerate(given_texts)}
    left, _ = run([transform(word) for word in CHAIN], texts)
    again, reports = run([transform(word) for word in CHAIN], left)
    assert again == left
    assert all(report.changed == report.dropped == 0 and report.examples == [] for report in reports)


# Examples.


def test_an_example_shows_the_place_of_the_change_on_one_line() -> None:
    before = "a" * 500 + "\x1b[31mX\n" + "b" * 500
    example = changed_example("name", before, before.replace("\x1b[31m", ""))
    assert example is not None
    assert example.before == "…" + "a" * 20 + "\\x1b[31mX\\n" + "b" * 53 + "…"
    assert example.after == "…" + "a" * 20 + "X\\n" + "b" * 58 + "…"
    assert changed_example("name", before, before) is None


MAIL = "jane.doe@example.org"


@pytest.mark.parametrize("lead", ["", "word " * 100, "x" * 395 + " ", "word " * 78])
def test_personal_data_is_shown_masked_wherever_it_stands(lead: str) -> None:
    text = f"{lead}{MAIL} and the rest of the text" + " that goes on" * 60
    masked_text = text.replace(MAIL, "[email]")
    examples = [
        changed_example(MAIL if not lead else "a", text, masked_text),
        changed_example("a", text, text.replace("rest", "REST")),
        changed_example("a", text, text[: len(lead)] + "!" + text[len(lead) :]),
        dropped_example("a", text, Verdict("short", "b")),
    ]
    for example in examples:
        assert example is not None
        assert "jane" not in f"{example.before}{example.after}"
        assert "doe@" not in f"{example.before}{example.after}"
    assert examples[0] is not None
    assert examples[0].before is None
    assert examples[0].after is not None
    assert "[email]" in examples[0].after


@given(st.text(max_size=200), st.integers(0, 200))
def test_what_is_shown_is_short_and_controls_no_terminal(text: str, start: int) -> None:
    found = shown(text, start)
    assert found.isprintable()
    assert found.count("…") <= text.count("…") + 2
    Example(document=found, before=found, after=shown("\U000f0000" * 500, start))  # fits into a report


def test_there_are_few_examples_and_some_of_each_reason() -> None:
    texts = {f"s{number}": SHORT for number in range(9)} | {
        f"n{number}": "# # " * 60 + str(number) for number in range(9)
    }
    _, (report,) = run([transform("FilterQuality")], {**texts, "p": PROSE})
    assert [(example.document, example.why) for example in report.examples] == [
        ("s0", "fewer than 50 words"),
        ("s1", "fewer than 50 words"),
        ("n0", "mean word shorter than 3 characters"),
        ("n1", "mean word shorter than 3 characters"),
    ]


def test_reasons_without_end_are_told_as_other_reasons() -> None:
    class Pedant(EachForItself):
        def fingerprint(self) -> dict[str, Any]:
            return {"type": "Pedant"}

        def verdict(self, one: Document) -> Verdict | None:
            return Verdict(f"reason {min(int(one.name), 99)}")

    _, (report,) = run([Pedant()], {f"{number}": "text" for number in range(120)})
    assert report.dropped == sum(report.reasons.values()) == 120
    assert len(report.reasons) == MOST_REASONS
    assert (report.reasons["reason 99"], report.reasons["other reasons"]) == (21, 120 - 21 - (MOST_REASONS - 2))
    assert report.told().endswith("and 24 other reasons): 480 bytes became 0")


def test_an_example_of_a_duplicate_names_what_it_is_like() -> None:
    _, (report,) = run([transform("RemoveDuplicates")], {"a": PROSE, "b": PROSE})
    assert [example.why for example in report.examples] == ["equal to an earlier document: a"]
