"""A text on its way to tokens, after its transforms.

Text           what is read, and what is done to it
prepared       the text as it becomes tokens; prepared_by_another: if it is there already

What transforms make is written down once: they may take long, and tokens are made in several readings.

    .<key>.text/     stream.bin    the pieces of the text as one stream, each behind its length (4 bytes, little-endian)
                     dropped.bin   numbers of the documents that were dropped, little-endian int64
                     text.json     sizes, hashes and what each transform did; written last

The folder is needed until there are tokens, and takes as much room as the text. A maker that goes on after a kill finds
it. Pieces stay as they were cut, for byte pairs are counted within them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from costopt.files import write_atomically
from costopt.hostile import open_file, read_json, real_folder
from costopt.schema.data_report import TransformReport
from costopt_trainer.data.documents import SEPARATOR, Content, Document, Tally, content_of, joined, watched
from costopt_trainer.data.making import changed_meanwhile
from costopt_trainer.data.sources.table import DocumentSource
from costopt_trainer.data.transforms.pipeline import Pipeline
from costopt_trainer.data.transforms.table import Transform, word_of
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove

_STREAM, _DROPPED, _CONTENTS = "stream.bin", "dropped.bin", "text.json"
_LENGTH_BYTES = 4
_MOST_BYTES = 1 << 26
"""Of a piece: many times what the text of a MiB grows to in any of the transforms."""


@dataclass(frozen=True)
class Transformed:
    """A text as it becomes tokens."""

    stream: Callable[[], Iterator[bytes]]
    """Its documents as one stream, the same pieces at every call."""
    num_bytes: int
    num_train_bytes: int
    """Up to where the stream is to train on."""
    digest: str
    """sha256 of the stream, hexadecimal."""
    num_documents: int
    held_out_documents: int | None
    """Of these, held out whole; None: the end of the stream is held out."""
    dropped: NDArray[np.int64]
    """Which documents are not in it: their places among those that were read, in order."""
    reports: tuple[TransformReport, ...] = ()
    """What each transform did."""


@dataclass(frozen=True)
class Text:
    """What is read, and what is done to it before there are tokens."""

    source: DocumentSource
    transforms: Sequence[Transform]
    content: Content
    """Of the source, as it was read first."""
    is_held_out: Callable[[str], bool] | None
    """Whether the document of a name is held out. None: the last `percent` of the bytes are."""
    percent: int
    key: str
    """Hash of all of this, and of the tokenizer."""


def prepared(text: Text, folder: Path) -> Transformed:
    """The text as it becomes tokens. `folder` is where transforms have it written down.

    Raises NotRetryable("InvalidData") if they leave nothing to train on or nothing held out, or the source changes
    meanwhile.
    """
    if not text.transforms:
        return _as_read(text)
    with phase("ReadingData", alone=True) as pieces:
        found = _read(folder, text.key, pieces.done)
        if found is None:
            _write_down(text, folder, pieces.done)
            found = _read(folder, text.key, pieces.done)
        # The key is that of the text as it was read first. A transform need not have read all of it just now.
        if content_of(text.source.documents(), pieces.done).digest != text.content.digest:
            raise changed_meanwhile(text.source.name)
    if found is None:
        raise OSError(f"the text in {folder} reads back otherwise than it was written")
    return found


def prepared_by_another(text: Text, folder: Path) -> Transformed | None:
    """The same, if it is there already."""
    if not text.transforms:
        return _as_read(text)
    with phase("ReadingData") as pieces:
        return _read(folder, text.key, pieces.done)


def _as_read(text: Text) -> Transformed:
    content = text.content
    held_out, num_train_bytes = None, content.num_bytes - content.num_bytes * text.percent // 100
    if text.is_held_out is not None:
        first = next((place for place, name in enumerate(content.names) if text.is_held_out(name)), len(content.sizes))
        held_out = len(content.sizes) - first
        num_train_bytes = sum(content.sizes[:first]) + max(first - 1, 0) * len(SEPARATOR)
    return Transformed(
        stream=lambda: joined(text.source.documents()),
        num_bytes=content.num_bytes,
        num_train_bytes=num_train_bytes,
        digest=content.digest,
        num_documents=len(content.sizes),
        held_out_documents=held_out,
        dropped=np.empty(0, dtype="<i8"),
    )


def _write_down(text: Text, folder: Path, on_piece: Callable[[], object]) -> None:
    remove(folder)
    folder.mkdir()
    pipeline = Pipeline(
        lambda: watched(text.source.documents(), on_piece), text.transforms, text.is_held_out or (lambda _name: False)
    )
    pipeline.judge()
    tallies = [Tally() for _ in range(len(text.transforms) + 1)]
    digest, num_bytes, num_train_bytes, held_out = _write(folder / _STREAM, pipeline.documents(tallies), text)
    reports = pipeline.reports([word_of(transform) for transform in text.transforms], tallies)
    _refuse_nothing(text.source.name, reports, tallies[-1].num_documents, held_out)
    dropped = _places_of_dropped(tallies[0], tallies[-1]).tobytes()
    (folder / _DROPPED).write_bytes(dropped)
    contents = {
        "key": text.key,
        "bytes": num_bytes,
        "trainBytes": num_train_bytes,
        "sha256": digest,
        "documents": tallies[-1].num_documents,
        "heldOutDocuments": held_out,
        "dropped": hashlib.sha256(dropped).hexdigest(),
        "transforms": [report.to_plain() for report in reports],
    }
    write_atomically(folder / _CONTENTS, json.dumps(contents).encode())


def _write(path: Path, documents: Iterator[Document], text: Text) -> tuple[str, int, int, int | None]:
    """sha256 and bytes of the stream, bytes to train on, and documents held out whole."""
    digest, num_bytes, num_train_bytes = hashlib.sha256(), 0, None
    held_out = 0
    with path.open("xb") as stream:

        def write(piece: bytes) -> None:
            nonlocal num_bytes
            stream.write(len(piece).to_bytes(_LENGTH_BYTES, "little"))
            stream.write(piece)
            digest.update(piece)
            num_bytes += len(piece)

        for number, document in enumerate(documents):
            if text.is_held_out is not None and text.is_held_out(document.name):
                num_train_bytes = num_bytes if num_train_bytes is None else num_train_bytes
                held_out += 1
            if number:
                write(SEPARATOR)
            for piece in document.pieces():
                write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    if text.is_held_out is None:
        return digest.hexdigest(), num_bytes, num_bytes - num_bytes * text.percent // 100, None
    return digest.hexdigest(), num_bytes, num_bytes if num_train_bytes is None else num_train_bytes, held_out


def _places_of_dropped(first: Tally, last: Tally) -> NDArray[np.int64]:
    places = (place for place, name in enumerate(first.sums) if name not in last.sums)
    return np.fromiter(places, dtype="<i8")


def _refuse_nothing(name: str, reports: Sequence[TransformReport], num_documents: int, held_out: int | None) -> None:
    if not any(report.dropped for report in reports):
        return
    if num_documents == 0:
        what, remedy = "documents to train on, but all were dropped", "loosen these settings, or give other text"
    elif held_out == num_documents:
        what, remedy = (
            "documents to train on, but only held-out ones are left",
            "loosen these settings, give more text, or a smaller data.validationPercent",
        )
    elif held_out == 0:
        what, remedy = (
            "held-out documents, but all of these were dropped",
            "loosen these settings, give more text, or a larger data.validationPercent",
        )
    else:
        return
    told = "; ".join(report.told() for report in reports if report.dropped)
    raise NotRetryable("InvalidData", f"the data.transforms of {name} must leave {what}: {remedy} ({told})")


def _read(folder: Path, key: str, on_piece: Callable[[], object]) -> Transformed | None:
    """The text in `folder`; None if it is not of this key, or not whole."""
    path = folder / _STREAM
    try:
        real_folder(folder)
        contents = read_json(folder / _CONTENTS)
        numbers = [contents[figure] for figure in ("bytes", "trainBytes", "documents")]
        held_out = contents["heldOutDocuments"]
        if contents["key"] != key or any(type(figure) is not int for figure in numbers):
            return None
        if not (held_out is None or type(held_out) is int) or not isinstance(contents["sha256"], str):
            return None
        reports = tuple(TransformReport.model_validate(report) for report in contents["transforms"])
        digest = hashlib.sha256()
        for piece in _pieces(path):
            digest.update(piece)
            on_piece()
        with open_file(folder / _DROPPED) as stream:
            dropped = stream.read()
        if digest.hexdigest() != contents["sha256"] or hashlib.sha256(dropped).hexdigest() != contents["dropped"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Transformed(
        stream=lambda: _pieces(path),
        num_bytes=numbers[0],
        num_train_bytes=numbers[1],
        digest=digest.hexdigest(),
        num_documents=numbers[2],
        held_out_documents=held_out,
        dropped=np.frombuffer(dropped, dtype="<i8"),
        reports=reports,
    )


def _pieces(path: Path) -> Iterator[bytes]:
    with open_file(path) as stream:
        while length := stream.read(_LENGTH_BYTES):
            num_bytes = int.from_bytes(length, "little")
            if num_bytes > _MOST_BYTES:
                raise ValueError(f"{path} must hold pieces of at most {_MOST_BYTES} bytes")
            yield stream.read(num_bytes)
