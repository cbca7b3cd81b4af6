"""Shares of a text become tokens, on all CPUs of this process.

Threads         tokenizes the parts of a share, in order
write_share     makes one of the shares, and writes it down for who puts them together
token_type      what a token number is in the files
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from costopt_trainer.data.shares import Piece, Share, Shares, parts_of
from costopt_trainer.data.tokenizers.table import TextTokenizer


def token_type(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest type that holds every token number."""
    if vocabulary_size <= 1 << 8:
        return np.dtype("<u1")
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def cpus() -> int:
    """CPUs that this process may use. Of the ranks of a machine one makes the tokens, so it may take all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_share(share: Share, shares: Shares, threads: "Threads", on_part: Callable[[int], object]) -> str:
    """Write down a share; `on_part` is told how far in the text a part is. The sha256 of its text."""
    text, tokens, position = hashlib.sha256(), (bytearray(), bytearray()), share.position
    for is_train, part, encoded in threads.tokens(share.pieces):
        text.update(part)
        tokens[not is_train].extend(encoded)
        position += len(part)
        shares.sign()
        on_part(position)
    shares.write(share.number, text.hexdigest(), bytes(tokens[0]), bytes(tokens[1]))
    return text.hexdigest()


class Threads:
    """Tokenizes on all CPUs of this process."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._type = token_type(tokenizer.vocabulary_size)
        self._pool = ThreadPoolExecutor(cpus())
        self.num_bytes = 0
        """Of text that was tokenized."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def tokens(self, pieces: Iterable[Piece]) -> Iterator[tuple[bool, bytes, bytes]]:
        """The parts of a share in order: whether it is to train on, its text, its tokens."""
        parts = list(parts_of(pieces))
        for (is_train, part), tokens in zip(parts, self._pool.map(self._encoded, parts), strict=True):
            self.num_bytes += len(part)
            yield is_train, part, tokens

    def _encoded(self, part: Piece) -> bytes:
        return self._tokenizer.encode(part[1]).astype(self._type).tobytes()
