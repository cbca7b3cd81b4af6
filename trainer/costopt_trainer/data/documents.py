"""Documents, and the one stream of bytes that they form.

Document        a name, and its text in pieces
joined          documents -> one stream, with a separator byte between two of them
split_pieces    the same stream, each piece marked as training or validation text
content_of      documents -> hash and length of their stream, and a checksum of each
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

SEPARATOR = b"\0"
"""Between two documents: a byte that is valid UTF-8 and that text does not contain."""

SUM_DIGITS = 16
"""Hexadecimal digits of a document's sha256 that are kept."""


@dataclass(frozen=True)
class Document:
    """One text."""

    name: str
    """Its name in messages, such as the path of its file; unique among the documents of a text."""
    pieces: Callable[[], Iterator[bytes]]
    """Its text from the start, the same at every call: each piece valid UTF-8, not empty, at most about a MiB."""


@dataclass(frozen=True)
class Content:
    """Hash and sizes of documents that were read."""

    digest: str
    """sha256 of their stream, hexadecimal."""
    num_bytes: int
    """Length of their stream."""
    sums: dict[str, str]
    """The beginning of each document's own sha256, by name."""


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


def continues_character(byte: int) -> bool:
    """Whether `byte` is a continuation byte in UTF-8."""
    return byte & 0xC0 == 0x80


def content_of(documents: Iterable[Document], on_piece: Callable[[], object] = lambda: None) -> Content:
    """Read all documents once; `on_piece` is called after each piece."""
    digest, num_bytes, tally = hashlib.sha256(), 0, Tally()
    for piece in joined(tally.through(documents)):
        digest.update(piece)
        num_bytes += len(piece)
        on_piece()
    return Content(digest.hexdigest(), num_bytes, tally.sums)


class Tally:
    """Counts documents that pass through, each of which is then read once."""

    def __init__(self) -> None:
        self.num_documents = 0
        self.num_bytes = 0
        """Of their texts, without separators."""
        self.sums: dict[str, str] = {}
        """The beginning of each document's sha256, by name."""

    def through(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents; each is counted when it comes, its text when it is read."""
        for document in documents:
            self.num_documents += 1
            yield Document(document.name, partial(self._pieces, document))

    def _pieces(self, document: Document) -> Iterator[bytes]:
        own = hashlib.sha256()
        for piece in document.pieces():
            own.update(piece)
            self.num_bytes += len(piece)
            yield piece
        self.sums[document.name] = own.hexdigest()[:SUM_DIGITS]
