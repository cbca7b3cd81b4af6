"""Labelled documents in JSON Lines: `{"text": "...", "label": "..."}`, one a line, in one file or those of a folder.

All lines are read and checked at the start, so that a mistake in the last one ends the job before anything is built.
Texts are then read again where they are needed: only labels and names are in memory.

Documents are held out by place, in a fixed shuffled order, because files are often sorted by class. Those to train on
come first, for the stream of documents has its held-out end behind.
"""

import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from costopt.hostile import MAX_JSON_BYTES, Hostile, parse_json
from costopt.schema.data import DataSettings, LabelledTextData
from costopt_trainer.data.documents import SEPARATOR, Document, continues_character
from costopt_trainer.data.making import changed_meanwhile
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.sources.text_files import matching_files, unreadable
from costopt_trainer.data.storages import refuse_what_jobs_write
from costopt_trainer.errors import NotRetryable

MAX_CLASSES = 10_000
MAX_LABEL_CHARACTERS = 200
PIECE_BYTES = 1 << 20
"""Text given at once, as the protocol of documents has it."""

Label = str | int


class LabelledText:
    """A source of documents, each with a class."""

    def __init__(self, settings: DataSettings, own_folder: Path | None = None) -> None:
        """Read and check all lines. Raises NotRetryable("InvalidData") of one sentence."""
        if settings.labelled_text is None:
            raise ValueError("data of type LabelledText must have labelledText settings")
        self._settings = settings.labelled_text
        path = Path(self._settings.path)
        self.name = f"data.labelledText.path: {path}"
        self._files = _files(path, self.name, own_folder)
        labels = {where: _checked(line, where, self._settings)[1] for where, line in self._lines()}
        self._held_out = _held_out(list(labels), settings.validation_percent, self.name)
        self._labels, self.class_names = _classes(labels, self._held_out, self.name)

    def documents(self) -> Iterator[Document]:
        """The training documents, then those that are held out."""
        for held_out in (False, True):
            for where, line in self._lines():
                if where not in self._labels:
                    raise changed_meanwhile(self.name)
                if (where in self._held_out) == held_out:
                    yield Document(where, partial(self._pieces, where, line))

    def is_held_out(self, name: str) -> bool:
        """Whether the document of that name is for evaluation."""
        return name in self._held_out

    def class_of(self, name: str) -> int:
        """The class of the document of that name."""
        return self._labels[name]

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """Where each line stands, and the line; blank ones are passed over."""
        for path in self._files:
            try:
                with path.open("rb") as stream:
                    number = 0
                    while line := stream.readline(MAX_JSON_BYTES + 1):
                        number += 1
                        if len(line) > MAX_JSON_BYTES:
                            raise _invalid(f"{path}, line {number},", f"must have at most {MAX_JSON_BYTES} bytes")
                        if line.strip():
                            yield f"{path}, line {number}", line
            except OSError as error:
                raise unreadable(str(path), error) from error

    def _pieces(self, where: str, line: bytes) -> Iterator[bytes]:
        text = _checked(line, where, self._settings)[0].encode()
        start = 0
        while start < len(text):
            end = min(start + PIECE_BYTES, len(text))
            while end < len(text) and continues_character(text[end]):
                end -= 1
            yield text[start:end]
            start = end


def _files(path: Path, name: str, own_folder: Path | None) -> list[Path]:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error
    refuse_what_jobs_write(path, name, own_folder)
    if stat.S_ISREG(mode):
        return [path]
    if not stat.S_ISDIR(mode):
        raise _invalid(name, "must be a .jsonl file or a folder, not a device, pipe or socket")
    files = [file.path for file in matching_files(path, "*.jsonl", own_folder=own_folder)]
    if not files:
        raise _invalid(name, "must hold files that end in .jsonl, but has none")
    return files


def _checked(line: bytes, where: str, settings: LabelledTextData) -> tuple[str, Label]:
    """Text and label of a line."""
    where += ","
    try:
        plain = parse_json(line)
    except Hostile as error:
        raise _invalid(where, f"{error} in UTF-8, one object a line") from error
    if not isinstance(plain, dict):
        raise _invalid(where, "must be a JSON object with a text and a label")
    missing = [field for field in (settings.text_field, settings.label_field) if field not in plain]
    if missing:
        raise _invalid(
            where,
            f"must have the fields {settings.text_field!r} and {settings.label_field!r} (textField and labelField of "
            f"data.labelledText), but lacks {' and '.join(repr(field) for field in missing)}",
        )
    text, label = plain[settings.text_field], plain[settings.label_field]
    if not isinstance(text, str) or not text.strip():
        raise _invalid(where, f"must have a text in {settings.text_field!r}, but it is {_shown(text)}")
    if SEPARATOR.decode() in text:
        raise _invalid(where, f"must have a text without the character U+0000 in {settings.text_field!r}")
    is_word = isinstance(label, str) and label.strip() and label.isprintable() and len(label) <= MAX_LABEL_CHARACTERS
    if type(label) is not int and not is_word:
        raise _invalid(
            where,
            f"must have a label in {settings.label_field!r} that is a whole number or a word of at most "
            f"{MAX_LABEL_CHARACTERS} printable characters, not {_shown(label)}",
        )
    return text, label


def _held_out(places: list[str], percent: int, name: str) -> frozenset[str]:
    count = len(places)
    if count < 2:
        raise _invalid(name, f"must hold at least 2 documents, one to train on and one to hold out, but holds {count}")
    order_N = sample_indices(seed=0, position=0, count=count, num_samples=count)
    held_N: NDArray[np.int64] = order_N[count - max(1, count * percent // 100) :]
    return frozenset(places[number] for number in held_N.tolist())


def _classes(labels: dict[str, Label], held_out: frozenset[str], name: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """The class of each document by its place, and the label of each class."""
    first_place, first = next(iter(labels.items()))
    for place, label in labels.items():
        if type(label) is not type(first):
            raise _invalid(
                name,
                f"must have labels that are all words or all whole numbers, but {first_place}, has {first!r} and "
                f"{place}, has {label!r}",
            )
    classes = sorted({label for place, label in labels.items() if place not in held_out})
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise _invalid(
            name, f"must have 2 to {MAX_CLASSES:,} labels among its training documents, but has {len(classes)}"
        )
    numbers = {label: number for number, label in enumerate(classes)}
    for place, label in labels.items():
        if label not in numbers:
            raise _invalid(
                name,
                f"must have training documents of each label, but {label!r} is the label of documents that are held "
                f"out alone, such as {place}: give more of it, or leave it out",
            )
    return {place: numbers[label] for place, label in labels.items()}, tuple(str(label) for label in classes)


def _shown(value: object) -> str:
    """A value of a line, shortened, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _invalid(what: str, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"{what} {demand}")
