"""A document in blocks: what transforms of text see at once.

blocks       pieces of a document -> blocks, which depend on its text alone and not on where its pieces are cut
beginning    a document -> its first block, by which filters judge it
Changer      a transform that changes blocks, one after the other

A document of at most BLOCK_BYTES is one block, which is nearly every document. A larger one is cut at line ends; so a
change that looks at lines gives the same as it would for the whole.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from costopt_trainer.data.documents import Document, continues_character

BLOCK_BYTES = 1 << 20
"""The most that one change sees at once: bounds memory, whatever the size of a document."""


def blocks(pieces: Iterable[bytes]) -> Iterator[str]:
    """The text in blocks of at most BLOCK_BYTES: each but the last ends behind the last line end in it; where there is
    none behind the last blank, else behind the last whole character."""
    held = b""
    for piece in pieces:
        held += piece
        start = 0
        while len(held) - start > BLOCK_BYTES:
            end = _end_of_block(held, start)
            yield held[start:end].decode()
            start = end
        held = held[start:]
    if held:
        yield held.decode()


def _end_of_block(text: bytes, start: int) -> int:
    stop = start + BLOCK_BYTES
    for border in (b"\n", b" "):
        found = text.rfind(border, start, stop)
        if found >= 0:
            return found + 1
    while continues_character(text[stop]):
        stop -= 1
    return stop


def beginning(document: Document) -> str:
    """The first block of a document; empty if it has no text."""
    return next(blocks(document.pieces()), "")


class Changer:
    """A transform that changes the text of each document, and drops none. What it makes of a document follows from the
    document's text alone."""

    def documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, each with its text changed as it is read."""
        for document in documents:
            yield Document(document.name, partial(self._pieces, document))

    def _pieces(self, document: Document) -> Iterator[bytes]:
        change = self.start()
        held: str | None = None
        for block in blocks(document.pieces()):
            if held is not None:
                yield from _encoded(change(held, False))
            held = block
        if held is not None:
            yield from _encoded(change(held, True))

    def start(self) -> Callable[[str, bool], str]:
        """What changes the blocks of one document: a block, and whether it is the last -> its text after the change."""
        return lambda block, _is_last: self.change(block)

    def change(self, block: str) -> str:
        """The text of a block after the change, for a transform that needs to know of no other."""
        raise NotImplementedError


def _encoded(text: str) -> Iterator[bytes]:
    for block in blocks([text.encode()]):
        yield block.encode()
