"""Labelled text: each document is one sample, whole or cut, in a class that its label names."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builders.data import labelled_settings, refused_in_one_sentence, write_labelled
from costopt.schema.data import DataSettings, Tokenizer
from costopt.schema.transforms import Transform
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.errors import NotRetryable

PAD, BEGINNING = 256, 258
"""Of a vocabulary of bytes; between them is the token that hides others, which no labelled document has."""


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def loaded(settings: DataSettings, folder: Path, context_length: int = 48) -> TrainingData:
    return load_data(settings, context_length=context_length, cache_dir=folder / "cache")


def pairs(data: TrainingData) -> dict[str, list[tuple[str, str]]]:
    """Text and label of all samples of bytes, by split."""
    assert data.class_names is not None
    found = {}
    for split, batch, count in (
        ("train", data.train_batch, data.num_train_samples),
        ("validation", data.validation_batch, data.num_validation_samples),
    ):
        inputs, classes = batch(np.arange(count))
        texts = [bytes(row[(row != PAD) & (row != BEGINNING)].tolist()).decode() for row in inputs.numpy()]
        found[split] = [(text, data.class_names[number]) for text, number in zip(texts, classes.tolist(), strict=True)]
    return found


def test_each_line_is_a_sample_with_its_own_label(tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "a.jsonl")
    data = loaded(labelled_settings(path, validation_percent=20), tmp_path)
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    splits = pairs(data)
    assert sorted(splits["train"] + splits["validation"]) == sorted((line["text"], line["label"]) for line in written)
    assert (data.num_train_samples, data.num_validation_samples) == (32, 8)
    assert {label for _, label in splits["validation"]} == {"cat", "dog", "owl"}, "though the file is sorted by label"
    assert (data.num_classes, data.class_names) == (3, ("cat", "dog", "owl"))
    assert (data.vocabulary_size, data.pad_id, data.tokens_per_sample) == (259, PAD, 1)
    assert data.notes == ("32 training and 8 held-out documents in 3 classes",)


def test_a_sample_begins_with_a_mark_and_is_filled_up_behind(tmp_path: Path) -> None:
    lines = [{"text": "ab" * number, "label": number % 2} for number in range(1, 9)]
    data = loaded(labelled_settings(write(tmp_path / "a.jsonl", *lines)), tmp_path, context_length=12)
    inputs, classes = data.train_batch(np.arange(data.num_train_samples))
    assert inputs.shape == (7, 12)
    assert (inputs[:, 0] == BEGINNING).all()
    for row, number in zip(inputs.tolist(), classes.tolist(), strict=True):
        text = [token for token in row[1:] if token != PAD]
        assert row[1:] == text + [PAD] * (11 - len(text)), "nothing stands behind the padding"
        assert len(text) == 11 or len(text) // 2 % 2 == number
    assert "are longer than 11 tokens and are cut" in data.notes[-1]


def test_whole_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    lines = [{"text": f"number {number}", "label": number} for number in (10, 9, 10, 9, 10, 9, -1, -1, -1, -1)]
    assert loaded(labelled_settings(write(tmp_path / "a.jsonl", *lines)), tmp_path).class_names == ("-1", "9", "10")


def test_the_fields_may_have_any_name_and_files_may_be_many(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        lines = [{"body": f"{name}{number}", "stars": number % 2, "more": [1]} for number in range(6)]
        write(tmp_path / "texts" / f"{name}.jsonl", *lines)
    (tmp_path / "texts" / "other.txt").write_text("no JSON")
    data = loaded(labelled_settings(tmp_path / "texts", textField="body", labelField="stars"), tmp_path)
    assert data.num_train_samples + data.num_validation_samples == 12


def test_byte_pairs_are_learned_from_the_training_documents(tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "a.jsonl", count=200)
    settings = labelled_settings(path, tokenizer=Tokenizer(type="BPE", vocabulary_size=300))
    data = loaded(settings, tmp_path)
    assert data.vocabulary_size is not None
    assert 260 < data.vocabulary_size <= 303
    assert data.pad_id == data.vocabulary_size - 3
    inputs, classes = data.validation_batch(np.arange(data.num_validation_samples))
    assert ((inputs != data.pad_id).sum(dim=1) < 30).all()
    again = loaded(settings, tmp_path)
    assert (again.validation_batch(np.arange(data.num_validation_samples))[0] == inputs).all()
    assert again.fingerprint == data.fingerprint
    assert len(set(classes.tolist())) == 3


def test_transforms_change_the_documents_and_keep_their_labels(tmp_path: Path) -> None:
    lines = [{"text": f"u\u0308ber {number}", "label": number % 2} for number in range(10)]
    settings = labelled_settings(write(tmp_path / "a.jsonl", *lines))
    changed = settings.model_copy(update={"transforms": [Transform(type="NormalizeUnicode")]})
    data = loaded(changed, tmp_path)
    splits = pairs(data)
    assert all(text == f"über {text.split()[1]}" for text, _ in splits["train"] + splits["validation"])
    assert all(int(text.split()[1]) % 2 == int(label) for text, label in splits["train"] + splits["validation"])
    assert data.notes[0].startswith("NormalizeUnicode changed 10 of 10 documents")
    assert data.fingerprint != loaded(settings, tmp_path).fingerprint


def test_another_label_is_other_data(tmp_path: Path) -> None:
    lines = [{"text": f"text {number}", "label": number % 2} for number in range(10)]
    before = loaded(labelled_settings(write(tmp_path / "a.jsonl", *lines)), tmp_path).fingerprint
    lines[3]["label"] = 0
    after = loaded(labelled_settings(write(tmp_path / "a.jsonl", *lines)), tmp_path).fingerprint
    assert before[:64] == after[:64], "the same tokens"
    assert before != after


def test_a_document_longer_than_a_piece_is_one_sample(tmp_path: Path) -> None:
    lines = [{"text": "ü" * 1_500_000 + str(number), "label": number % 2} for number in range(1)]
    lines += [{"text": f"text {number}", "label": number % 2} for number in range(9)]
    data = loaded(labelled_settings(write(tmp_path / "a.jsonl", *lines)), tmp_path)
    assert data.num_train_samples + data.num_validation_samples == 10


GOOD = [{"text": f"text {number}", "label": number % 2} for number in range(20)]


def labelled(*lines: object, **fields: str) -> Callable[[Path], DataSettings]:
    return lambda folder: labelled_settings(write(folder / "a.jsonl", *lines), **fields)


def raw(content: bytes) -> Callable[[Path], DataSettings]:
    def make(folder: Path) -> DataSettings:
        (folder / "a.jsonl").write_bytes(content)
        return labelled_settings(folder / "a.jsonl")

    return make


LINE = b'{"text": "a", "label": 1}\n'

MISTAKES: list[tuple[str, Callable[[Path], DataSettings], str]] = [
    ("path missing", lambda folder: labelled_settings(folder / "none.jsonl"), "none.jsonl must exist on the machine"),
    ("path is a device", lambda _: labelled_settings(Path("/dev/zero")), "must be a file or a folder, not a device"),
    ("folder empty", labelled_settings, r"must hold files that end in .jsonl, .*, but has none"),
    ("file empty", raw(b""), "a.jsonl must hold records, but has 0 bytes"),
    ("lines empty", raw(b"\n \n"), "a.jsonl must hold records, but has none"),
    ("one line", raw(LINE), "must hold at least 2 documents"),
    ("no JSON", raw(LINE + b"a,b,c\n"), "a.jsonl, line 2, must be JSON in UTF-8, one object a line"),
    ("binary", raw(LINE + bytes(range(256)) + b"\n"), "a.jsonl, line 2, must be JSON in UTF-8, one object a line"),
    ("not UTF-8", raw(LINE * 2 + '{"text": "ü", "label": 1}\n'.encode("latin-1")), "line 3, must be JSON in UTF-8"),
    ("one line of all", raw(b"\n" + b"x" * (2**24 + 1)), "line 2, must have at most 16777216 bytes"),
    ("one array of all", raw(b"[1]\n"), "line 1, must be a JSON object"),
    ("no label", labelled(*GOOD, {"text": "a"}), r"line 21, must have the fields 'text' and 'label' .* lacks 'label'"),
    ("neither field", labelled(*GOOD, textField="t", labelField="l"), r"line 1, must have .* but lacks 't' and 'l'"),
    ("text empty", labelled(*GOOD, {"text": "", "label": 1}), "line 21, must have a text in 'text', but it is ''"),
    ("text blank", labelled(*GOOD, {"text": " \n", "label": 1}), r"line 21, must have a text in 'text', but it is ' "),
    ("text a number", labelled(*GOOD, {"text": 3, "label": 1}), "line 21, must have a text in 'text', but it is 3"),
    ("text with a zero", labelled(*GOOD, {"text": "a\0b", "label": 1}), r"must have a text without the character U"),
    ("label a fraction", labelled(*GOOD, {"text": "a", "label": 0.5}), "must have a label in 'label' .* not 0.5"),
    ("label true", labelled(*GOOD, {"text": "a", "label": True}), "must have a label in 'label' .* not True"),
    ("label empty", labelled(*GOOD, {"text": "a", "label": " "}), "must have a label in 'label' .* not ' '"),
    ("label long", labelled(*GOOD, {"text": "a", "label": "x" * 201}), "at most 200 printable characters, not 'xxx"),
    (
        "words and numbers",
        labelled(*GOOD, {"text": "a", "label": "good"}),
        "must have labels that are all words or all whole numbers, but .*line 1, has 0 and .*line 21, has 'good'",
    ),
    (
        "one class",
        labelled(*[{"text": "a", "label": "good"}] * 20),
        "must have 2 to 10,000 labels among its training documents, but has 1",
    ),
    (
        "as many classes as documents",
        labelled(*[{"text": f"a {number}", "label": number} for number in range(20)]),
        "must have training documents of each label, but [0-9]+ is the label of documents that are held out alone",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_in_labelled_text_is_answered_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], DataSettings], sentence: str
) -> None:
    refused_in_one_sentence(make(tmp_path), sentence, tmp_path / "cache")


def test_what_a_job_writes_is_no_labelled_text(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", *GOOD)
    (tmp_path / ".costopt-storage").touch()
    with pytest.raises(NotRetryable, match="is what a job writes itself"):
        loaded(labelled_settings(tmp_path / "metrics.jsonl"), tmp_path)
