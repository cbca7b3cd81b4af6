"""One form for characters that can be written in several ways (Unicode Standard Annex #15), by Python's `unicodedata`.

Text comes in pieces, and normalizing reaches over their borders: an accent at the start of a piece belongs to the
letter at the end of the one before. So a piece is held back from its last character that surely begins something new.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from costopt.schema.transforms import NormalizeUnicode as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.documents import Document

BEGINNINGS = (
    ("\x00", "\x7f"),  # ASCII
    ("\u3041", "\u3096"),  # hiragana
    ("\u30a1", "\u30fa"),  # katakana
    ("\u3400", "\u9fff"),  # CJK ideographs
    ("\uac00", "\ud7a3"),  # Hangul syllables
)
"""Ranges of characters that no form moves before, or makes one with, a character that stands before them. Not all there
are, but each kind of text has one every few words, which is what bounds the memory."""


class NormalizeUnicode:
    """Brings each document into one normalization form."""

    def __init__(self, settings: Transform) -> None:
        self._form = (settings.normalize_unicode or Settings()).form

    def fingerprint(self) -> dict[str, Any]:
        """The form, and the version of Unicode's tables, which comes with Python."""
        return {"type": "NormalizeUnicode", "form": self._form, "unicode": unicodedata.unidata_version}

    def documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, each in the form."""
        for document in documents:
            yield Document(document.name, partial(self._pieces, document.pieces))

    def _pieces(self, pieces: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        held: list[str] = []
        for piece in pieces():
            text = piece.decode()
            border = _last_beginning(text)
            if border is not None:
                yield from self._normalized([*held, text[:border]])
                held, text = [], text[border:]
            held.append(text)
        yield from self._normalized(held)

    def _normalized(self, parts: list[str]) -> Iterator[bytes]:
        text = "".join(parts)
        if text:
            yield unicodedata.normalize(self._form, text).encode()


def _last_beginning(text: str) -> int | None:
    """Where the last character stands that surely begins something new."""
    for place in range(len(text) - 1, -1, -1):
        if any(first <= text[place] <= last for first, last in BEGINNINGS):
            return place
    return None
