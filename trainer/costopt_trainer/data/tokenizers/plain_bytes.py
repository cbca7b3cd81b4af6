"""One token per byte of UTF-8, 256 in all."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costopt.schema.data import Tokenizer
from costopt_trainer.data.documents import SEPARATOR
from costopt_trainer.data.tokenizers.table import NUM_BYTES, SpecialTokens


class ByteTokenizer:
    """Bytes as tokens."""

    vocabulary_size = NUM_BYTES
    special_tokens: SpecialTokens | None = None
    separator = SEPARATOR[0]

    def encode(self, piece: bytes) -> NDArray[np.uint8]:
        """The bytes themselves."""
        return np.frombuffer(piece, dtype=np.uint8)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the bytes; a character cut in two becomes U+FFFD."""
        return bytes(tokens).decode(errors="replace")

    def to_json(self) -> str:
        """Nothing: there is nothing to learn."""
        return ""


class PlainBytes:
    """The kind, which has no settings."""

    learns = False
    vocabulary_sizes = (NUM_BYTES, NUM_BYTES)

    def __init__(self, _settings: Tokenizer) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        """Always the same."""
        return {"tokenizer": "Byte", "vocabularySize": None}

    def learn(self, _pieces: Iterable[bytes]) -> ByteTokenizer:
        """The tokenizer; no piece is read."""
        return ByteTokenizer()

    def from_json(self, _text: str) -> ByteTokenizer:
        """The tokenizer."""
        return ByteTokenizer()
