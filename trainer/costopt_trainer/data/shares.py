"""Shares of a text, which several makers tokenize at once, on any machine that sees the folder, each of them once.

    .<key>.shares/   claims            one byte of it is locked for each share that a maker has taken
                     <number>.tokens   one line of JSON, then the tokens of a share: to train on, then held out

A share is what begins within SHARE_BYTES of the text, so all makers agree on shares without a word. A maker keeps its
locks until it leaves: what it has taken nobody else takes, whether it is done or under way. The system releases them if
it dies. Tokens of a share are written whole or not at all, and whoever makes them makes the same, so a maker that hangs
may be passed by: at worst a share is made twice.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from costopt.files import write_atomically
from costopt.hostile import lock_file, open_file, parse_json
from costopt_trainer.data.documents import SEPARATOR
from costopt_trainer.data.tokenizers.table import cut_between_words

SHARE_BYTES = 1 << 22
"""Text of a share: seconds of work, and what a kill costs."""
PART_BYTES = 1 << 16
"""Text tokenized at once: a fraction of a second, even on a busy machine."""
SILENT_SECONDS = 60.0
"""Without a sign of any maker, after which one that waits for a share makes it itself."""

_CLAIMS = "claims"
_MACHINES = 1 << 40
"""Bytes of `claims` from here on are locked for machines: there are never so many shares."""
_SIGN_EVERY_SECONDS = 1.0
_MAX_HEADER_BYTES = 1024
_MAX_BYTES = 1 << 30
"""Of a share's tokens: many times what the largest piece of a text can come to."""

Piece = tuple[bool, bytes]
"""Whether it is to train on, and text."""


@dataclass(frozen=True)
class Share:
    """A part of the text."""

    number: int
    """Those of the shares of a text rise, and need not follow each other."""
    position: int
    """Where it begins, in bytes of the stream."""
    pieces: Iterator[Piece]
    """Its text; to be read before the next share is asked for."""


def shares_of(pieces: Iterable[Piece]) -> Iterator[Share]:
    """A text in shares."""

    def placed() -> Iterator[tuple[int, Piece]]:
        position = 0
        for piece in pieces:
            yield position, piece
            position += len(piece[1])

    for number, group in groupby(placed(), key=lambda item: item[0] // SHARE_BYTES):
        position, first = next(group)
        rest: Iterator[Piece] = map(itemgetter(1), group)  # noqa: B031  all but the first
        yield Share(number, position, chain([first], rest))


def parts_of(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """What is tokenized at once: pieces cut between words, and short documents with the separators between them.

    A text that begins with a blank begins a part, for some tokenizers take it otherwise there.
    """
    joined, kind = bytearray(), True
    for is_train, piece in pieces:
        for part in cut_between_words(piece, PART_BYTES):
            at_border = joined.endswith(SEPARATOR) or part.startswith(SEPARATOR)
            fits = is_train == kind and len(joined) + len(part) <= PART_BYTES and not part.startswith(b" ")
            if joined and not (at_border and fits):
                yield kind, bytes(joined)
                joined.clear()
            joined += part
            kind = is_train
    if joined:
        yield kind, bytes(joined)


class Shares:
    """The shares of one text, as one maker sees them."""

    def __init__(self, folder: Path, key: str, tokenizer_digest: str) -> None:
        """`folder` must exist: who holds the text's lock makes it. Raises OSError and Hostile."""
        self._folder = folder
        self._of = {"key": key, "tokenizer": tokenizer_digest}
        self._claims = lock_file(folder / _CLAIMS)
        self._signed_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._claims)  # and with it goes every lock

    def claim_machine(self) -> bool:
        """Whether this process is the one that may help on this machine: a pod or a machine by its host's name."""
        name = hashlib.sha256(socket.gethostname().encode()).digest()
        return self._claim(_MACHINES + int.from_bytes(name[:4], "big"))

    def take(self, number: int) -> bool:
        """Whether the share is to be made by this maker: nobody has it, or has made it."""
        return not self._path(number).exists() and self._claim(number)

    def _claim(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def sign(self) -> None:
        """A part is made: tell those who wait."""
        if time.monotonic() - self._signed_at >= _SIGN_EVERY_SECONDS:
            self._signed_at = time.monotonic()
            os.utime(self._claims)

    def signs(self) -> tuple[object, ...]:
        """What changes as long as any maker is at work."""
        return os.fstat(self._claims).st_mtime_ns, *sorted(path.name for path in self._folder.iterdir())

    def write(self, number: int, text_digest: str, train: bytes, validation: bytes) -> None:
        """The tokens of a share whose text has this sha256."""
        tokens = train + validation
        header = {
            **self._header(number, text_digest),
            "train": len(train),
            "bytes": len(tokens),
            "sha256": hashlib.sha256(tokens).hexdigest(),
        }
        write_atomically(self._path(number), json.dumps(header).encode() + b"\n" + tokens)

    def read(self, number: int, text_digest: str) -> tuple[bytes, bytes] | None:
        """The tokens of a share, to train on and held out; None if they are not there. What is there and not right is
        removed."""
        path = self._path(number)
        try:
            with open_file(path) as stream:
                header = parse_json(stream.readline(_MAX_HEADER_BYTES))
                size, num_train = header["bytes"], header["train"]
                is_right = type(size) is int and type(num_train) is int and 0 <= num_train <= size <= _MAX_BYTES
                tokens = stream.read(size + 1) if is_right else b""
            is_right &= len(tokens) == size and hashlib.sha256(tokens).hexdigest() == header["sha256"]
            is_right &= self._header(number, text_digest).items() <= header.items()
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            is_right = False
        if not is_right:
            self.forget([number])
            return None
        return tokens[:num_train], tokens[num_train:]

    def forget(self, numbers: Iterable[int]) -> None:
        """Remove the tokens of shares that are kept elsewhere."""
        for number in numbers:
            with contextlib.suppress(OSError):
                self._path(number).unlink()

    def _header(self, number: int, text_digest: str) -> dict[str, Any]:
        return {**self._of, "number": number, "text": text_digest}

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.tokens"


class Silence:
    """How long nothing has changed, by this process' own clock."""

    def __init__(self, signs: Callable[[], tuple[object, ...]]) -> None:
        self._signs, self._last, self._since = signs, signs(), time.monotonic()

    def goes_on(self) -> bool:
        """Whether there was no sign since the last call."""
        now = self._signs()
        if now == self._last:
            return True
        self._last, self._since = now, time.monotonic()
        return False

    def is_long(self) -> bool:
        """Whether nobody seems to be at work any more."""
        return time.monotonic() - self._since >= SILENT_SECONDS
