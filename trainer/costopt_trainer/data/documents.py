"""Documents, and the one stream of bytes that they form.

Document        a name, and its text in pieces
joined          documents -> one stream, with a separator byte between two of them
split_pieces    the same stream, each piece marked as training or validation text
in_pieces       a text in memory -> the pieces of a document
watched         the same documents, with a call for each piece that is read
content_of      documents -> hash and length of their stream, and a checksum of each file
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

SEPARATOR = b"\0"
"""Between two documents: a byte that is valid UTF-8 and that text does not contain."""

SUM_DIGITS = 16
"""Hexadecimal digits of a sha256 that are kept of a document, or of a file."""

PIECE_BYTES = 1 << 20
"""Text given at once: bounds memory, whatever the size of a document."""


@dataclass(frozen=True)
class Document:
    """One text."""

    name: str
    """Its name in messages, such as the path of its file; unique among the documents of a text."""
    pieces: Callable[[], Iterator[bytes]]
    """Its text from the start, the same at every call: each piece valid UTF-8, not empty, at most about a MiB."""
    file: str = ""
    """The file that it is a part of, as messages call it; empty if its own name is that of a file."""


@dataclass(frozen=True)
class Content:
    """Hash and sizes of documents that were read."""

    digest: str
    """sha256 of their stream, hexadecimal."""
    num_bytes: int
    """Length of their stream."""
    sums: dict[str, str]
    """The beginning of a sha256 of each file's documents, by the file's name: there may be many more documents."""
    sizes: "array[int]"
    """Bytes of each document, in order."""
    longest: str = ""
    """Name of the largest document."""
    names: tuple[str, ...] = ()
    """Of each document, if they were asked for: they may take more memory than anything else."""


def joined(documents: Iterable[Document]) -> Iterator[bytes]:
    """The text of the documents in order, SEPARATOR between two of them."""
    for number, document in enumerate(documents):
        if number:
            yield SEPARATOR
        yield from document.pieces()


def split_pieces(pieces: Iterable[bytes], num_train_bytes: int) -> Iterator[tuple[bool, bytes]]:
    """Each piece with True if it is training text; the piece at the border is split between characters."""
    position = 0
    for piece in pieces:
        border = min(max(num_train_bytes - position, 0), len(piece))
        position += len(piece)
        while 0 < border < len(piece) and continues_character(piece[border]):
            border += 1
        if border > 0:
            yield True, piece[:border]
        if border < len(piece):
            yield False, piece[border:]


def watched(documents: Iterable[Document], on_piece: Callable[[], object]) -> Iterator[Document]:
    """The same documents; `on_piece` is called when one comes, and after each piece that is read."""

    def pieces(document: Document) -> Iterator[bytes]:
        for piece in document.pieces():
            yield piece
            on_piece()

    for document in documents:
        on_piece()
        yield Document(document.name, partial(pieces, document), document.file)


def continues_character(byte: int) -> bool:
    """Whether `byte` is a continuation byte in UTF-8."""
    return byte & 0xC0 == 0x80


def in_pieces(text: bytes) -> Iterator[bytes]:
    """A text of valid UTF-8 in the pieces of a document, cut between characters."""
    start = 0
    while start < len(text):
        end = min(start + PIECE_BYTES, len(text))
        while end < len(text) and continues_character(text[end]):
            end -= 1
        yield text[start:end]
        start = end


def content_of(
    documents: Iterable[Document], on_piece: Callable[[], object] = lambda: None, *, with_names: bool = False
) -> Content:
    """Read all documents once; `on_piece` is called after each piece."""
    digest, num_bytes = hashlib.sha256(), 0
    of_files: dict[str, Any] = {}
    sizes, longest, names = array("q"), ("", -1), []
    for number, document in enumerate(documents):
        own = of_files.get(document.file or document.name)
        if own is None:
            own = of_files[document.file or document.name] = hashlib.sha256()
        else:
            own.update(SEPARATOR)
        if number:
            digest.update(SEPARATOR)
            num_bytes += len(SEPARATOR)
        before = num_bytes
        for piece in document.pieces():
            own.update(piece)
            digest.update(piece)
            num_bytes += len(piece)
            on_piece()
        sizes.append(num_bytes - before)
        if num_bytes - before > longest[1]:
            longest = document.name, num_bytes - before
        if with_names:
            names.append(document.name)
    sums = {name: own.hexdigest()[:SUM_DIGITS] for name, own in of_files.items()}
    return Content(digest.hexdigest(), num_bytes, sums, sizes, longest[0], tuple(names))


class Tally:
    """Counts documents that pass through, each of which is then read once."""

    def __init__(self) -> None:
        self.num_documents = 0
        self.num_bytes = 0
        """Of their texts, without separators."""
        self.sums: dict[str, str] = {}
        """The beginning of each document's sha256, by name."""
        self.sizes: array[int] = array("q")
        """Bytes of each document, in the same order."""

    def through(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents; each is counted when it comes, its text when it is read."""
        for document in documents:
            self.num_documents += 1
            yield Document(document.name, partial(self._pieces, document), document.file)

    def _pieces(self, document: Document) -> Iterator[bytes]:
        own, before = hashlib.sha256(), self.num_bytes
        for piece in document.pieces():
            own.update(piece)
            self.num_bytes += len(piece)
            yield piece
        self.sums[document.name] = own.hexdigest()[:SUM_DIGITS]
        self.sizes.append(self.num_bytes - before)
