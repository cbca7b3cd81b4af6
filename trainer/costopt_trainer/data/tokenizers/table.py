"""What a tokenizer is, and the table of them."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from costopt.schema.data import Tokenizer
from costopt_trainer.tables import row

Tokens = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

NUM_BYTES = 256
_END_OF_WORD = re.compile(rb"[!-~](?= )")
"""Where a word surely ends, whatever stands around: a visible sign before a blank."""


class TextTokenizer(Protocol):
    """What turns text into tokens, ready for use. Lossless over all of UTF-8, with byte 0 a token of its own."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens in all; every token number is less."""

    def encode(self, piece: bytes) -> NDArray[np.uint32] | NDArray[np.uint8]:
        """The tokens of a piece of valid UTF-8. A piece cut by `cut_between_words` has the tokens of its parts."""

    def to_json(self) -> str:
        """What `from_json` of its kind reads; empty if nothing was learned."""


class TokenizerKind(Protocol):
    """A kind of tokenizer with its settings, before it has seen the text."""

    learns: bool
    """Whether it learns from the training text. What it has learned is then kept beside the tokens."""
    vocabulary_sizes: tuple[int, int]
    """The smallest and the largest vocabulary that it can come to."""

    def fingerprint(self) -> dict[str, Any]:
        """All that makes it give other tokens for the same text, as JSON: a part of the token cache's key."""

    def learn(self, pieces: Iterable[bytes]) -> TextTokenizer:
        """The tokenizer for a training text, given in pieces of valid UTF-8; reads none if it does not learn."""

    def from_json(self, text: str) -> TextTokenizer:
        """The tokenizer that `to_json` wrote. Raises ValueError for anything else."""


TOKENIZERS: dict[str, str] = {
    "Byte": "costopt_trainer.data.tokenizers.plain_bytes:PlainBytes",
    "BPE": "costopt_trainer.data.tokenizers.byte_pairs:BytePairs",
}
"""`recipe.data.tokenizer.type` -> a callable (settings) -> TokenizerKind."""


def tokenizer_kind(settings: Tokenizer) -> TokenizerKind:
    """The kind of tokenizer that `settings.type` names."""
    kind: TokenizerKind = row(TOKENIZERS, settings.type)(settings)
    return kind


def cut_between_words(piece: bytes, size: int) -> Iterator[bytes]:
    """`piece` in parts of about `size` bytes that, tokenized one by one, give the same tokens as the whole."""
    start = 0
    while (end := _END_OF_WORD.search(piece, start + size)) is not None:
        yield piece[start : end.end()]
        start = end.end()
    if start < len(piece):
        yield piece[start:]
