"""Records: the same documents from whatever format they lie in, and a sentence for each thing that can be wrong."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.data import labelled_settings, records_settings, refused_in_one_sentence
from costopt.schema.data import DataSettings
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.documents import PIECE_BYTES, SEPARATOR, Document, content_of, in_pieces, joined
from costopt_trainer.data.sources.table import open_source
from costopt_trainer.errors import NotRetryable

ROWS: list[dict[str, Any]] = [
    {"text": f'{animal} {number}, größer;\tals\n“{number}” "quoted"', "label": animal, "more": None}
    for number, animal in enumerate(["cat", "dog", "owl"] * 40)
]
"""Texts with everything that a format could stumble over."""


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Any], delimiter: str = ",", encoding: str = "utf-8") -> None:
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Sequence[Any]) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=50)


def write_stream(path: Path, rows: Sequence[Any]) -> None:
    table = pa.Table.from_pylist(list(rows))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


WRITERS: dict[str, tuple[str, Callable[[Path, Sequence[Any]], None]]] = {
    "JSON Lines": ("a.jsonl", write_jsonl),
    "CSV": ("a.csv", write_csv),
    "CSV with a mark": ("a.csv", lambda path, rows: write_csv(path, rows, encoding="utf-8-sig")),
    "TSV": ("a.tsv", lambda path, rows: write_csv(path, rows, "\t")),
    "Parquet": ("a.parquet", write_parquet),
    "Arrow stream": ("a.arrow", write_stream),
    "Feather": ("a.feather", lambda path, rows: pa.feather.write_feather(pa.Table.from_pylist(list(rows)), path)),
}


def texts_of(settings: DataSettings, cache: Path | None = None) -> list[str]:
    source = open_source(settings, None, cache)
    return b"".join(joined(source.documents())).decode().split(SEPARATOR.decode())


def loaded(settings: DataSettings, folder: Path) -> TrainingData:
    return load_data(settings, context_length=32, cache_dir=folder / "cache")


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path: Path, writer: str) -> None:
    name, write = WRITERS[writer]
    write(tmp_path / name, ROWS)
    assert texts_of(records_settings(tmp_path / name)) == [row["text"] for row in ROWS]
    assert texts_of(records_settings(tmp_path)) == [row["text"] for row in ROWS], "as the one file of a folder"


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_same_labels(tmp_path: Path, writer: str) -> None:
    name, write = WRITERS[writer]
    write(tmp_path / name, ROWS)
    write_jsonl(tmp_path / "other.jsonl", ROWS)
    data = loaded(labelled_settings(tmp_path / name), tmp_path)
    same = loaded(labelled_settings(tmp_path / "other.jsonl"), tmp_path)
    assert data.fingerprint == same.fingerprint
    assert data.class_names == ("cat", "dog", "owl")
    for one, other in zip(data.train_batch(np.arange(20)), same.train_batch(np.arange(20)), strict=True):
        assert (one == other).all()


def test_a_folder_may_hold_files_of_several_formats_in_the_order_of_hashed_names(tmp_path: Path) -> None:
    for number, (name, write) in enumerate(WRITERS.values()):
        write(tmp_path / f"{number}-{name}", [{"text": str(number)}])
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "_SUCCESS").touch()
    found = texts_of(records_settings(tmp_path))
    assert sorted(found) == [str(number) for number in range(len(WRITERS))]
    assert found != sorted(found)
    assert found == texts_of(records_settings(tmp_path))


def test_the_text_may_be_made_of_several_fields(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"q": "Why?", "a": 42, "sure": True}, {"q": "{a}", "a": 0.5, "sure": False}])
    template = "Q: {q}\nA: {a} {{{sure}}}"
    assert texts_of(records_settings(tmp_path, template=template)) == [
        "Q: Why?\nA: 42 {true}",
        "Q: {a}\nA: 0.5 {false}",
    ]


def test_each_record_is_written_in_one_of_several_templates_as_its_place_has_it(tmp_path: Path) -> None:
    templates = ["Q: {q} A: {a}", "{a}, for {q}", "What is {q}?"]
    rows = [{"q": f"q{number}", "a": number} for number in range(3000)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    found = texts_of(records_settings(tmp_path, templates=templates))
    used = []
    for row, text in zip(rows, found, strict=True):
        used.append([template.format(**row) for template in templates].index(text))
    groups = [tuple(used[start : start + 3]) for start in range(0, 3000, 3)]
    assert all(sorted(group) == [0, 1, 2] for group in groups)
    assert len(set(groups)) == 6
    assert texts_of(records_settings(tmp_path, templates=templates)) == found
    assert used[:6] == [1, 2, 0, 0, 1, 2]  # another choice would be other tokens under the name of the same settings
    data = loaded(records_settings(tmp_path, templates=templates), tmp_path)
    other = loaded(records_settings(tmp_path, templates=templates[::-1]), tmp_path)
    assert data.fingerprint != other.fingerprint


def test_templates_go_with_columns_and_labels_and_with_bad_records(tmp_path: Path) -> None:
    rows = [{"title": f"t{number}", "body": "b", "label": number % 2} for number in range(20)]
    rows[4]["body"] = None
    write_jsonl(tmp_path / "a.jsonl", rows)
    templates = {"templates": ["{title}: {body}", "{body} of {title}"], "onBadSample": "Skip", "maxBadPercent": 10}
    data = loaded(labelled_settings(tmp_path, **templates), tmp_path)
    assert data.num_train_samples + data.num_validation_samples in (19, 20)
    write_csv(tmp_path / "b.csv", ROWS, ",")
    texts = texts_of(records_settings(tmp_path / "b.csv", templates=["{text}", "-{text}"]))
    assert [text.removeprefix("-") for text in texts] == [row["text"] for row in ROWS]


def test_a_template_goes_with_labels(tmp_path: Path) -> None:
    rows = [{"title": f"t{number}", "body": "b", "label": number % 2} for number in range(10)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    data = loaded(labelled_settings(tmp_path, template="{title}: {body}"), tmp_path)
    assert (data.num_train_samples, data.class_names) == (9, ("0", "1"))


def test_another_delimiter_may_be_set(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ROWS, ";")
    assert texts_of(records_settings(tmp_path, format="CSV", delimiter=";")) == [row["text"] for row in ROWS]


def test_a_record_without_text_is_passed_over_and_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": ""}, *ROWS, {"text": " \n"}])
    data = loaded(records_settings(tmp_path), tmp_path)
    assert data.notes[0] == "2 records without text were passed over"
    assert texts_of(records_settings(tmp_path)) == [row["text"] for row in ROWS]


def test_labels_that_are_given_are_the_classes_in_their_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    data = loaded(labelled_settings(tmp_path, labels=["owl", "yak", "dog", "cat"]), tmp_path)
    assert (data.num_classes, data.class_names) == (4, ("owl", "yak", "dog", "cat"))
    inputs, classes = data.train_batch(np.arange(data.num_train_samples))
    for row, number in zip(inputs.numpy(), classes.tolist(), strict=True):
        assert bytes(row[1:4].astype(np.uint8)).decode() == ("owl", "yak", "dog", "cat")[number]


def imitated(folder: Path, rows: Sequence[Any], shards: int = 2) -> None:
    """A folder as the library datasets saves one: rows in a row, in streams that state.json names."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    each = -(-len(rows) // shards)
    for number, name in enumerate(names):
        write_stream(folder / name, rows[number * each : (number + 1) * each])
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1f5b", "_split": None}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": {}}, indent=2))


def imitated_splits(folder: Path, splits: dict[str, Sequence[Any]]) -> None:
    for split, rows in splits.items():
        imitated(folder / split, rows)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


def really_saved(folder: Path, rows: Sequence[Any], shards: int = 2) -> None:
    datasets = pytest.importorskip("datasets", reason="the library that saves such folders is of the extra bench")
    datasets.Dataset.from_list(list(rows)).save_to_disk(folder, num_shards=shards)


def really_saved_splits(folder: Path, splits: dict[str, Sequence[Any]]) -> None:
    datasets = pytest.importorskip("datasets", reason="the library that saves such folders is of the extra bench")
    of = {split: datasets.Dataset.from_list(list(rows)) for split, rows in splits.items()}
    datasets.DatasetDict(of).save_to_disk(folder, num_shards=dict.fromkeys(splits, 2))


def test_the_imitation_of_a_saved_dataset_has_the_files_of_a_real_one(tmp_path: Path) -> None:
    splits = {"train": ROWS, "test": ROWS[:20]}
    really_saved_splits(tmp_path / "real", splits)
    imitated_splits(tmp_path / "imitated", splits)

    def files(folder: Path) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    assert files(tmp_path / "imitated") == files(tmp_path / "real")
    for name in files(tmp_path / "real"):
        real, own = (tmp_path / which / name for which in ("real", "imitated"))
        if name.endswith(".arrow"):
            tables = [pa.ipc.open_stream(pa.OSFile(str(path))).read_all() for path in (real, own)]
            assert tables[0].to_pylist() == tables[1].to_pylist()
        elif "state" in name or "dict" in name:
            told = [json.loads(path.read_text()) for path in (real, own)]
            assert [told[0].get(key) for key in ("_data_files", "splits")] == [
                told[1].get(key) for key in ("_data_files", "splits")
            ]


@pytest.mark.parametrize("save", [imitated, really_saved])
def test_a_saved_dataset_is_read_without_what_lies_beside_it(
    tmp_path: Path, save: Callable[[Path, Sequence[Any]], None]
) -> None:
    folder = tmp_path / "reviews"
    save(folder, ROWS)
    write_stream(folder / "cache-1f5b.arrow", [{"text": "put by", "label": "put by"}])  # as the library's map() leaves
    assert sorted(texts_of(records_settings(folder))) == sorted(row["text"] for row in ROWS)
    data = loaded(labelled_settings(folder), tmp_path)
    assert data.class_names == ("cat", "dog", "owl")
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(NotRetryable, match=r"must hold all files that its state.json names, but lacks data-00001-of"):
        texts_of(records_settings(folder))


@pytest.mark.parametrize("save", [imitated_splits, really_saved_splits])
def test_of_a_dataset_of_several_splits_one_must_be_named(
    tmp_path: Path, save: Callable[[Path, dict[str, Sequence[Any]]], None]
) -> None:
    save(tmp_path / "d", {"train": ROWS, "test": ROWS[:20]})
    with pytest.raises(NotRetryable, match=r"must be one split of a dataset, .* name one, such as .*/d/train"):
        texts_of(records_settings(tmp_path / "d"))
    assert sorted(texts_of(records_settings(tmp_path / "d" / "test"))) == sorted(row["text"] for row in ROWS[:20])


def test_classes_of_a_dataset_really_saved_are_the_numbers_that_it_keeps(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the library that saves such folders is of the extra bench")
    kinds = {"text": datasets.Value("large_string"), "label": datasets.ClassLabel(names=["owl", "dog", "cat"])}
    rows = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    saved = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
    saved.filter(lambda row: row["label"] != 1).save_to_disk(tmp_path / "d")
    assert len(texts_of(records_settings(tmp_path / "d"))) == len(ROWS) * 2 // 3
    assert loaded(labelled_settings(tmp_path / "d"), tmp_path).class_names == ("0", "2")


def with_classes(path: Path, numbers: Sequence[int | None], names: Any) -> None:
    """A file as the library datasets writes it: classes as numbers, and their names beside the schema."""
    table = pa.table(
        {"text": [f"text {place}" for place in range(len(numbers))], "label": pa.array(numbers, pa.int64())}
    )
    told = {"info": {"features": {"text": {"_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path, row_group_size=50)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_numbers_of_classes_are_matched_by_the_names_that_a_file_has_of_them(tmp_path: Path, name: str) -> None:
    numbers = [place % 3 for place in range(120)]
    with_classes(tmp_path / name, numbers, ["owl", "dog", "cat"])
    data = loaded(labelled_settings(tmp_path, labels=["cat", "owl", "dog"]), tmp_path)
    inputs, classes = data.train_batch(np.arange(data.num_train_samples))
    for row, number in zip(inputs.numpy(), classes.tolist(), strict=True):
        place = int(bytes(row[row < 256].astype(np.uint8)).decode().strip("\0").removeprefix("text "))
        assert ("cat", "owl", "dog")[number] == ("owl", "dog", "cat")[place % 3]
    assert loaded(labelled_settings(tmp_path, labels=["2", "0", "1"]), tmp_path).class_names == ("2", "0", "1")
    assert loaded(labelled_settings(tmp_path), tmp_path).class_names == ("0", "1", "2")


def test_names_of_classes_that_look_like_numbers_are_names_all_the_same(tmp_path: Path) -> None:
    with_classes(tmp_path / "a.parquet", [0, 1] * 40, ["1", "2"])
    data = loaded(labelled_settings(tmp_path, labels=["2", "1"]), tmp_path)
    inputs, classes = data.train_batch(np.arange(data.num_train_samples))
    for row, number in zip(inputs.numpy(), classes.tolist(), strict=True):
        place = int(bytes(row[row < 256].astype(np.uint8)).decode().strip("\0").removeprefix("text "))
        assert ("2", "1")[number] == ("1", "2")[place % 2]


@pytest.mark.parametrize(
    ("numbers", "names", "labels", "told"),
    [
        (
            [0, 1, -1],
            ["owl", "dog"],
            ["owl", "dog"],
            "row 3, must have one of data.labelledText.labels in 'label', not -1",
        ),
        (
            [0, 1, 7],
            ["owl", "dog"],
            ["owl", "dog"],
            "row 3, must have one of data.labelledText.labels in 'label', not 7",
        ),
        ([0, 1], ["owl", "dog"], ["owl", "yak"], "row 1, must have one of data.labelledText.labels in 'label', not 0"),
        ([0, 1], "no list", ["owl", "dog"], "row 1, must have one of data.labelledText.labels in 'label', not 0"),
        ([0, 1], [0, 1], ["owl", "dog"], "row 1, must have one of data.labelledText.labels in 'label', not 0"),
        ([0, 1, None], ["owl", "dog"], ["owl", "dog"], "row 3, must have a label in 'label' that is a whole number"),
    ],
)
def test_a_number_without_a_name_is_no_label(
    tmp_path: Path, numbers: list[int | None], names: Any, labels: list[str], told: str
) -> None:
    with_classes(tmp_path / "a.parquet", numbers, names)
    refused_in_one_sentence(labelled_settings(tmp_path, labels=labels), told, tmp_path)


def test_bad_samples_are_left_out_if_asked_for_and_counted(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS]
    lines[3:3] = ["{broken", '{"text": null}', "[1]"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    skipping = {"onBadSample": "Skip", "maxBadPercent": 3}
    data = loaded(records_settings(tmp_path, **skipping), tmp_path)
    assert data.notes[0].startswith("3 of 123 samples are bad and left out; the first: ")
    assert data.notes[0].endswith("a.jsonl, line 4, must be JSON in UTF-8, one object a line")
    assert texts_of(records_settings(tmp_path, **skipping)) == [row["text"] for row in ROWS]
    with pytest.raises(NotRetryable, match=r"at most 2 percent of bad samples \(maxBadPercent\), but 3 of 123 are bad"):
        loaded(records_settings(tmp_path, **skipping | {"maxBadPercent": 2}), tmp_path)


def test_labelled_samples_that_are_bad_are_left_out_too(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "a yak", "label": "yak"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    labels = ["cat", "dog", "owl"]
    data = loaded(labelled_settings(tmp_path, labels=labels, onBadSample="Skip"), tmp_path)
    assert data.num_train_samples + data.num_validation_samples == len(ROWS)
    assert "1 of 121 samples are bad" in data.notes[0]
    assert "line 121, must have one of data.labelledText.labels in 'label', not 'yak'" in data.notes[0]


def test_a_line_that_is_too_long_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("costopt_trainer.data.records.lines.MAX_RECORD_BYTES", 40)
    write_jsonl(tmp_path / "a.jsonl", [{"text": "first"}, {"text": "x" * 100}, {"text": "last"}, {"txt": "no text"}])
    skipping = records_settings(tmp_path, onBadSample="Skip", maxBadPercent=50)
    assert texts_of(skipping) == ["first", "last"]
    monkeypatch.setattr("costopt_trainer.data.records.lines.MAX_RECORD_BYTES", 200)
    refused_in_one_sentence(records_settings(tmp_path), "line 4, must have the field 'text'", tmp_path / "cache")


def test_a_text_in_csv_may_be_as_long_as_a_book(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"text": "a word " * 100_000}, {"text": ROWS[0]["text"]}])
    assert texts_of(records_settings(tmp_path)) == ["a word " * 100_000, ROWS[0]["text"]]


def test_a_line_of_csv_that_is_too_long_is_not_taken_for_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costopt_trainer.data.records.lines.MAX_RECORD_BYTES", 40_000)
    (tmp_path / "a.csv").write_text(f"n,text\n1,fine\n2,{'x' * 30_000} {'y' * 30_000}\n3,fine too\n")
    refused_in_one_sentence(records_settings(tmp_path), "a.csv, line 3, must have at most 40000 bytes", tmp_path / "c")


def test_a_bad_row_of_csv_spoils_no_other(tmp_path: Path) -> None:
    content = b'text,n\nfirst,1\nragged\n"x"y,2\n\xff\xfe,3\n"two\nlines",4\nlast,5\n'
    (tmp_path / "a.csv").write_bytes(content)
    skipping = records_settings(tmp_path, onBadSample="Skip", maxBadPercent=50)
    assert texts_of(skipping) == ["first", "two\nlines", "last"]
    for line, told in ((3, "must have 2 columns"), (4, "must be CSV"), (5, "must be UTF-8")):
        broken = content.split(b"\n")
        (tmp_path / "a.csv").write_bytes(b"\n".join([broken[0], *[b"fine,0"] * (line - 2), broken[line - 1]]))
        with pytest.raises(NotRetryable, match=f"a.csv, line {line}, {told}"):
            texts_of(records_settings(tmp_path))


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=5)), min_size=1, max_size=20))
def test_whatever_a_text_holds_csv_and_json_lines_keep_it(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    rows = [{"text": text, "other": other} for text, other in pairs if text.strip() and "\0" not in text + other]
    if not rows:
        return
    folder = tmp_path_factory.mktemp("a")
    write_jsonl(folder / "a.jsonl", rows)
    write_csv(folder / "a.csv", rows)
    for name in ("a.jsonl", "a.csv"):
        assert texts_of(records_settings(folder / name)) == [row["text"] for row in rows]


@given(st.text(max_size=30), st.integers(4, 9))
def test_a_text_in_pieces_is_the_text(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("costopt_trainer.data.documents.PIECE_BYTES", size)
        pieces = list(in_pieces(text.encode()))
    assert "".join(piece.decode() for piece in pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)
    assert PIECE_BYTES == 1 << 20


def test_the_sums_of_many_records_are_as_many_as_their_files() -> None:
    documents = [Document(f"a, line {number}", lambda number=number: iter([b"%d" % number]), "a") for number in (1, 2)]
    both = content_of([*documents, Document("b", lambda: iter([b"12"]))])
    assert set(both.sums) == {"a", "b"}
    assert both.sums["a"] != both.sums["b"]
    assert both.num_bytes == len(b"1\x002\x0012")


def written(name: str, content: bytes, **fields: Any) -> Callable[[Path], DataSettings]:
    def make(folder: Path) -> DataSettings:
        (folder / name).write_bytes(content)
        return records_settings(folder / name, **fields)

    return make


def table(name: str, columns: dict[str, Any], **fields: Any) -> Callable[[Path], DataSettings]:
    def make(folder: Path) -> DataSettings:
        writer = write_parquet if name.endswith(".parquet") else write_stream
        keys = list(columns)
        writer(folder / name, [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)])
        return records_settings(folder / name, **fields)

    return make


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], DataSettings]:
    def make(folder: Path) -> DataSettings:
        WRITERS["Parquet" if name.endswith(".parquet") else "Arrow stream"][1](folder / name, ROWS)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return records_settings(folder / name)

    return make


def empty_parquet(folder: Path) -> DataSettings:
    pa.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "a.parquet")
    return records_settings(folder)


def parquet_of_latin(folder: Path) -> DataSettings:
    spoiled = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"gr\xfc\xdf"], pa.binary()).buffers())
    pa.parquet.write_table(pa.table({"text": spoiled}), folder / "a.parquet")
    return records_settings(folder)


LINE = b'{"text": "some text"}\n'

MISTAKES: list[tuple[str, Callable[[Path], DataSettings], str]] = [
    ("broken line", written("a.jsonl", LINE + b'{"text": "x"\n'), "a.jsonl, line 2, must be JSON in UTF-8"),
    (
        "field missing",
        written("a.jsonl", LINE + b'{"t": 1}\n'),
        "line 2, must have the field 'text' .textField of data.r",
    ),
    ("text null", written("a.jsonl", LINE + b'{"text": null}'), "line 2, must have a text in 'text', but it is null"),
    (
        "text a list",
        written("a.jsonl", LINE + b'{"text": ["a"]}'),
        r"line 2, must have a text in 'text', but it is \['a",
    ),
    ("UTF-16", written("a.jsonl", "{}".encode("utf-16")), "a.jsonl must be UTF-8, but begins with the mark of UTF-16"),
    ("0 bytes", written("a.csv", b""), "a.csv must hold records, but has 0 bytes"),
    ("0 bytes of Parquet", written("a.parquet", b""), "a.parquet must hold records, but has 0 bytes"),
    ("a column twice", written("a.csv", b"text,text\n1,2\n"), "must have one column 'text', but its first line has 2"),
    ("only names", written("a.csv", b"text,label\n"), "a.csv must hold records, but has none"),
    ("only blanks", written("a.jsonl", b'{"text": " "}'), "must hold records with text, but has none"),
    (
        "no such column",
        written("a.csv", b"a,b\n1,2\n"),
        "must have the column 'text', but its first line names 'a', 'b'",
    ),
    (
        "other delimiter",
        written("a.csv", b"text;label\n1;2\n"),
        "must have the column 'text', .* names 'text;label': its columns seem to be divided by ';'; set format",
    ),
    ("ragged", written("a.csv", b"text,n\nx,1\ny\n"), "a.csv, line 3, must have 2 columns, as the first .*, but has 1"),
    (
        "ragged below two lines",
        written("a.csv", b'text,n\n"x\n",1\ny,1,2\n'),
        "a.csv, line 4, must have 2 columns, .* 3",
    ),
    (
        "open quote",
        written("a.csv", b'text\n"x\ny\nz\n'),
        "a.csv, line 2, must be CSV .*: a quoted value is not closed",
    ),
    (
        "open quote, and bad samples may be skipped",
        written("a.csv", b'text\nu\nv\n"x\ny\nz\n', onBadSample="Skip", maxBadPercent=100),
        "a.csv, line 4, must be CSV .*: a quoted value is not closed",
    ),
    (
        "nothing but bad samples, which may be skipped",
        written("a.jsonl", b'{"a": 1}\n{"a": 2}\n', onBadSample="Skip", maxBadPercent=100),
        "must have samples that can be used, but all 2 are bad, the first: .*, line 1, must have the field 'text'",
    ),
    ("unknown ending", written("a.doc", LINE), "a.doc must end in one of .jsonl, .*, or data.records.format must say"),
    (
        "CSV in name only",
        written("a.parquet", b"text\nx\n"),
        "a.parquet must be a whole Parquet file, but reading fails",
    ),
    ("Parquet cut", damaged("a.parquet", lambda content: content[:-9]), "must be a whole Parquet file, but reading"),
    ("Parquet empty", empty_parquet, "a.parquet must hold records, but has none"),
    ("Parquet of other columns", table("a.parquet", {"a": ["x"]}), "must have a column 'text', but has 'a'"),
    ("Parquet null", table("a.parquet", {"text": ["x", None]}), "row 2, must have a text in 'text', but it is null"),
    ("Parquet of numbers", table("a.parquet", {"text": [1, 2]}), "row 1, must have a text in 'text', but it is 1"),
    ("Parquet of Latin", parquet_of_latin, "a.parquet, row 2, must have UTF-8 in 'text'"),
    ("Arrow cut", damaged("a.arrow", lambda content: content[: len(content) // 2]), "must be a whole Arrow file, but"),
    ("no Arrow", written("a.arrow", b"hello world" * 20), "a.arrow must be a whole Arrow file, but reading fails"),
    ("Arrow of other columns", table("a.arrow", {"a": ["x"]}), "must have a column 'text', but has 'a'"),
    (
        "field of the template missing",
        written("a.jsonl", LINE, template="{text}{n}"),
        "line 1, must have the fields 'text' and 'n' .template of data.records., but lacks 'n'",
    ),
    (
        "field of one of several templates missing",
        written("a.jsonl", LINE * 3, templates=["{text}", "{text}{n}"]),
        "line 1, must have the fields 'text' and 'n' .templates of data.records., but lacks 'n'",
    ),
    (
        "field of the template null",
        written("a.jsonl", b'{"text": null}', template="-{text}"),
        "line 1, must have a text or number in 'text', which the template names, but it is null",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_in_records_is_answered_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], DataSettings], sentence: str
) -> None:
    refused_in_one_sentence(make(tmp_path), sentence, tmp_path / "cache")


def test_labels_of_several_types_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*ROWS, {"text": "x", "label": 1}])
    refused_in_one_sentence(labelled_settings(tmp_path), "all words or all whole numbers, but .*'cat'", tmp_path / "c")


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    refused_in_one_sentence(
        records_settings(tmp_path), r"must be read with the package pyarrow, .*costopt\[data\]", tmp_path / "cache"
    )
