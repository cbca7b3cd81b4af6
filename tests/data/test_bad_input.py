"""Input of any shape, as a user may have it by mistake: one clear sentence, safe for a terminal, in bounded memory."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.data import (
    folder_settings,
    image_settings,
    labelled_settings,
    records_settings,
    refused_in_one_sentence,
    text_settings,
    token_settings,
    write_image_folder,
)
from costopt.schema.data import DataSettings
from costopt_trainer.data.skipping import told_in
from costopt_trainer.errors import NotRetryable, Retryable, quoted, safe

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

GOOD = b"".join(
    json.dumps({"text": f"some text, {number}", "label": "ab"[number % 2]}).encode() + b"\n" for number in range(40)
)
HUGE = 200 << 30
Mistake = Callable[[Path], DataSettings]


def file(
    name: str, content: bytes, settings: Callable[..., DataSettings] = records_settings, **fields: object
) -> Mistake:
    """A file with that content."""

    def make(folder: Path) -> DataSettings:
        (folder / name).write_bytes(content)
        return settings(folder / name, **fields)

    return make


def named(name: bytes) -> Mistake:
    """A folder with a broken file of that name."""

    def make(folder: Path) -> DataSettings:
        (folder / "in").mkdir()
        with open(os.fsencode(folder) + b"/in/" + name, "wb") as stream:  # noqa: PTH123 - no Path has such a name
            stream.write(GOOD + b"{\n")
        return records_settings(folder / "in")

    return make


def huge(name: str, settings: Callable[[Path], DataSettings]) -> Mistake:
    """A file of 200 GiB of zeros, which take no room."""

    def make(folder: Path) -> DataSettings:
        with (folder / name).open("wb") as stream:
            stream.truncate(HUGE)
        return settings(folder / name)

    return make


def loop(folder: Path) -> DataSettings:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return text_settings(folder / "a")


def pipe(folder: Path) -> DataSettings:
    os.mkfifo(folder / "a.jsonl")
    return records_settings(folder / "a.jsonl")


def parquet(folder: Path, name: str = "a.csv", **columns: object) -> DataSettings:
    pq.write_table(pa.table(columns or {"text": ["x" * 1000] * 100}), folder / name)
    return records_settings(folder / name)


def same_tokens(folder: Path) -> DataSettings:
    for name in ("a.bin", "held-out.bin"):
        np.arange(500, dtype="<u2").tofile(folder / name)
    return token_settings(folder / "a.bin", vocabulary_size=600, validationPath=str(folder / "held-out.bin"))


def class_that_steers(folder: Path) -> DataSettings:
    write_image_folder(folder / "images")
    one = next(path for path in (folder / "images").iterdir() if path.is_dir())
    one.rename(folder / "images/\x1b]0;title\x07")
    next((folder / "images/\x1b]0;title\x07").iterdir()).write_bytes(b"no image")
    return folder_settings(folder / "images")


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "a broken line": (
        file("a.jsonl", GOOD + b'{"text": "a'),
        "a.jsonl, line 41, must be JSON in UTF-8, one object a line",
    ),
    "a missing field": (
        file("a.jsonl", GOOD + b'{"t": 1}'),
        "a.jsonl, line 41, must have the field 'text' .* lacks 'text'",
    ),
    "a null": (
        file("a.jsonl", GOOD + b'{"text": null}'),
        "a.jsonl, line 41, must have a text in 'text', but it is null",
    ),
    "another type": (
        file("a.jsonl", GOOD + b'{"text": 7}'),
        "a.jsonl, line 41, must have a text in 'text', but it is 7",
    ),
    "a long value": (
        file("a.jsonl", GOOD + json.dumps({"text": ["x" * 100_000]}).encode()),
        r"line 41, must have a text in 'text', but it is \['x{50,60}\.\.\.$",
    ),
    "a label that is not in the list": (
        file("a.jsonl", GOOD + b'{"text": "a b", "label": "z"}', labelled_settings, labels=["a", "b"]),
        "a.jsonl, line 41, must have one of data.labelledText.labels in 'label', not 'z'",
    ),
    "a label that steers": (
        file("a.jsonl", GOOD + b'{"text": "a b", "label": "\\u001b[31m"}', labelled_settings),
        r"line 41, must have a label in 'label' .* not '\\x1b\[31m'",
    ),
    "CSV that is Parquet": (
        parquet,
        "a.csv must be lines of text, but is a Parquet file: set format, or name another file",
    ),
    "CSV that is noise": (
        file("a.csv", np.random.default_rng(0).bytes(5000)),
        "a.csv must be lines of text, but is binary",
    ),
    "CSV that is packed": (file("a.csv", gzip.compress(GOOD)), r"is packed by gzip \(its name should end in .gz\)"),
    "CSV of strange names": (
        file("a.csv", "\x1b[2J\u202e;".encode() * 9 + b",b\n1,2\n"),
        r"must have the column 'text', but its first line names '\\x1b\[2J\\u202e;.*\.\.\., 'b'",
    ),
    "Parquet of lists": (
        lambda folder: parquet(folder, "a.parquet", text=[[{"a": 1}]]),
        r"a.parquet, row 1, must have a text in 'text', but it is \[\{'a': 1\}\]",
    ),
    "Parquet without rows": (
        lambda folder: parquet(folder, "a.parquet", text=pa.array([], pa.string())),
        "a.parquet must hold records, but has none",
    ),
    "a loop of links": (loop, "reading fails: Too many levels of symbolic links"),
    "a pipe": (pipe, "a.jsonl must be a file or a folder, not a device, pipe or socket"),
    "a device": (lambda _: token_settings("/dev/zero"), "/dev/zero must be a file or a folder, not a device"),
    "a name that is no UTF-8": (named(b"a\xff.jsonl"), r"a\\xff.jsonl, line 41, must be JSON"),
    "a name that steers": (named(b"a\x1b[31m\n.jsonl"), r"a\\x1b\[31m\\n.jsonl, line 41, must be JSON"),
    "a class that steers": (class_that_steers, r"\\x1b\]0;title\\x07/.* must be an image that can be decoded"),
    "held-out tokens that are trained on": (same_tokens, "held-out.bin must be held out .* same tokens as .*/a.bin"),
    "huge JSON": (huge("a.jsonl", records_settings), "a.jsonl, line 1, must have at most 16777216 bytes"),
    "huge CSV": (huge("a.csv", records_settings), "a.csv, line 1, must have at most 16777216 bytes"),
    "huge Parquet": (huge("a.parquet", records_settings), "a.parquet must be a whole Parquet file"),
    "huge arrays": (huge("a.npz", image_settings), "a.npz must be a whole .npz file"),
    "huge packed text": (huge("a.txt.gz", text_settings), "a.txt.gz must be a whole gzip file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, mistake: str) -> None:
    make, sentence = MISTAKES[mistake]
    refused_in_one_sentence(make(tmp_path), sentence, tmp_path / "cache")


@given(st.text())
def test_a_sentence_is_one_line_that_controls_no_terminal_whatever_it_quotes(text: str) -> None:
    for told in (str(NotRetryable("InvalidData", text)), str(Retryable("DataUnreachable", text)), safe(text)):
        assert told.isprintable()
        told.encode()
    if text.isprintable():
        assert safe(text) == text


@given(st.text() | st.binary() | st.lists(st.integers()) | st.none(), st.integers(10, 80))
def test_what_is_quoted_is_short_and_on_one_line(value: object, limit: int) -> None:
    assert len(quoted(value, limit)) <= limit
    assert quoted(value, limit).isprintable()


def test_the_line_of_what_was_left_out_is_found_among_others() -> None:
    line = "1,204 of 40,000 samples are bad and left out; the first: a.jsonl, line 7, must be JSON"
    assert told_in(["36 documents", line, "x"], 256) == line
    assert told_in([line, line], 256) == f"{line}; {line}"
    assert len(told_in([line * 9], 256) or "") == 256
    assert told_in(["36 documents"], 256) is None
