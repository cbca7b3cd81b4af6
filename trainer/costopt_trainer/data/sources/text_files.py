"""Text files: one, or those of folders, patterns and URLs, in which order and how much of them.

    text_files        settings -> the files to read
    take              as many of them as a limit allows

Every error is the user's to mend and is a NotRetryable("InvalidData") of one sentence.
"""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from costopt.schema.data import SourceSettings
from costopt_trainer.data.documents import Document, continues_character
from costopt_trainer.data.files.found import DataFile, find_files
from costopt_trainer.data.files.local import named_like
from costopt_trainer.data.files.places import told
from costopt_trainer.data.skipping import Skipping
from costopt_trainer.errors import NotRetryable, safe
from costopt_trainer.phases import phase

PIECE_BYTES = 1 << 20
"""Bytes read at once: bounds memory, whatever the size of a file."""
CHECKED_BYTES = 1 << 16
"""Bytes decoded at once, to see that they are UTF-8."""


@dataclass(frozen=True)
class TextFile:
    """A file, or its beginning."""

    file: DataFile
    num_bytes: int
    """Bytes of text to read from its start."""

    @property
    def path(self) -> Path:
        """Where it lies on this machine."""
        return self.file.path


@dataclass(frozen=True)
class TextFiles:
    """A source of documents: each file is one."""

    name: str
    """How errors call it: the setting and its value."""
    files: tuple[TextFile, ...]
    """In reading order; at least one, none empty."""
    notes: tuple[str, ...] = ()
    """What was left out, in words."""

    def documents(self) -> Iterator[Document]:
        """The files; reading one raises NotRetryable that names it, and the byte offset of what is not UTF-8."""
        return (Document(text.file.name, partial(_pieces, text)) for text in self.files)


def text_files(settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None) -> TextFiles:
    """The files that settings of type Text ask for.

    `own_folder` is the job's own storage, which changes while it trains. What jobs write is no data, neither there
    nor in the storage of another job. What lies behind a URL is copied below `cache_dir`.
    """
    own = settings.text
    if own is None:
        raise ValueError("data of type Text must have text settings")
    field, places = own.places
    wanted = named_like(own.include)
    files = find_files(f"data.text.{field}", places, wanted, own_folder=own_folder, cache_dir=cache_dir)
    name = told(f"data.text.{field}", places)
    demand = f"must hold files that match include {own.include!r} and are not empty, but has none"
    if len(files) == 1 and files[0].is_named:
        demand = "must hold text, but is empty"
        if own.on_bad_sample == "Skip":
            demand = "must hold text in UTF-8, but is empty or none, and was skipped"
    skipping = Skipping(own, name)
    usable = _usable(files, skipping, checked=own.on_bad_sample == "Skip")
    taken = take(name, usable, own.max_bytes, demand, num_files=len(files))
    skipping.end()
    return replace(taken, notes=(*skipping.notes, *taken.notes))


def _usable(files: Iterable[DataFile], skipping: Skipping, *, checked: bool) -> Iterator[TextFile | None]:
    """The files with their sizes, None for a bad one. If `checked`, each is read to see that it is text; else its
    documents will be."""
    for file in files:
        try:
            text = whole(file)
            with phase("ReadingData") as pieces:
                for _ in _pieces(text) if checked else ():
                    pieces.done()
        except NotRetryable as error:
            skipping.bad(str(error))
            yield None
            continue
        skipping.good()
        yield text


def whole(file: DataFile) -> TextFile:
    """All of a file. Of a packed one the bytes of text are counted, which also shows that it is whole."""
    if file.packing is None:
        return TextFile(file, file.num_bytes)
    num_bytes = 0
    with phase("ReadingData") as pieces, file.opened() as stream:
        while block := stream.read(PIECE_BYTES):
            num_bytes += len(block)
            pieces.done()
    return TextFile(file, num_bytes)


def _pieces(text: TextFile) -> Iterator[bytes]:
    left, offset, rest = text.num_bytes, 0, b""
    with text.file.opened() as stream:
        while block := stream.read(min(left, PIECE_BYTES)):
            left -= len(block)
            piece, rest = _cut_whole_characters(rest + block, text.file.name, offset, at_end=left == 0)
            offset += len(piece)
            if piece:
                yield piece


def _cut_whole_characters(block: bytes, name: str, offset: int, *, at_end: bool) -> tuple[bytes, bytes]:
    """`block` without a last character of which a part is still to come, and that part."""
    decoder, held = codecs.getincrementaldecoder("utf-8")(), 0
    # In parts: large texts that come and go, each of another size, would leave holes in the heap for every block.
    for start in range(0, len(block), CHECKED_BYTES):
        stop = start + CHECKED_BYTES
        try:
            decoder.decode(block[start:stop], at_end and stop >= len(block))
        except UnicodeDecodeError as error:
            place = start - held + error.start
            raise NotRetryable(
                "InvalidData",
                f"{name} must be UTF-8 text, but the byte at offset {offset + place} (0x{block[place]:02x}) is not "
                "part of a UTF-8 character",
            ) from error
        held = len(decoder.getstate()[0])
    whole = len(block) - held
    return block[:whole], block[whole:]


def take(
    name: str, found: Iterable[TextFile | None], max_bytes: int | None, wanted: str, *, num_files: int
) -> TextFiles:
    """Whole files until the limit; if the first alone exceeds it, its beginning. What is left out is in its notes.

    `found` has an entry for each of `num_files` files, None for one that cannot be used. None is read beyond the limit.
    """
    files: list[TextFile] = []
    empty: list[str] = []
    notes: list[str] = []
    total = 0
    for number, text in enumerate(found):
        if text is None:
            continue
        if text.num_bytes == 0:
            empty.append(text.file.name)
            continue
        if max_bytes is not None and total + text.num_bytes > max_bytes:
            left_out = [f"{count:,} of {num_files:,} files"] if (count := num_files - number - (not files)) else []
            if not files:
                files.append(_beginning(text.file, max_bytes))
                left_out.insert(0, f"{safe(text.file.name)} from byte {files[0].num_bytes:,} on")
            notes.append(f"maxBytes {max_bytes:,} leaves out {' and '.join(left_out)}")
            break
        files.append(text)
        total += text.num_bytes
    if not files or files[0].num_bytes == 0:
        raise NotRetryable("InvalidData", f"{name} {wanted}")
    if empty:
        notes.insert(0, f"{len(empty):,} of {num_files:,} files are empty and left out; the first: {safe(empty[0])}")
    return TextFiles(name, tuple(files), tuple(notes))


def _beginning(file: DataFile, max_bytes: int) -> TextFile:
    """At most `max_bytes` of the text in a file, cut between characters."""
    with file.opened() as stream:
        _skip(stream, max(0, max_bytes - 3))
        around = stream.read(min(max_bytes, 3) + 1)
    while len(around) > 1 and continues_character(around[-1]):
        around, max_bytes = around[:-1], max_bytes - 1
    return TextFile(file, max_bytes)


def _skip(stream: BinaryIO, num_bytes: int) -> None:
    if stream.seekable():
        stream.seek(num_bytes)
        return
    while num_bytes and (block := stream.read(min(num_bytes, PIECE_BYTES))):
        num_bytes -= len(block)
