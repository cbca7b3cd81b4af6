"""Makes tokens from a text, part by part: after a kill, the next maker goes on where the last one was.

    .<key>.partial/     train.bin, validation.bin    tokens so far
                        tokenizer.json               once one is learned
                        made.json                    how far the files are valid, and their hashes

made.json is written every few seconds, after the data it describes is on disk. Later data in the files is cut off; a
file that does not match made.json is made from the start.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from costopt.files import write_atomically
from costopt.hostile import open_file, read_file, read_json, real_folder
from costopt_trainer.data.documents import Document, joined, split_pieces
from costopt_trainer.data.entropy import PairCounts
from costopt_trainer.data.tokenizers.table import TextTokenizer, TokenizerKind, cut_between_words
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import Pieces, phase
from costopt_trainer.storage.folders import remove

TRAIN_FILE, VALIDATION_FILE, TOKENIZER_FILE = "train.bin", "validation.bin", "tokenizer.json"
_MADE_FILE = "made.json"
_MAX_TOKENIZER_BYTES = 2**26
"""Of a tokenizer.json; one of 262,144 tokens has a third of that."""

PART_BYTES = 1 << 16
"""Text tokenized at once: a fraction of a second, even on a busy machine."""
MARK_EVERY_SECONDS = 5.0
"""Between two writes of made.json: what a kill costs."""


@dataclass(frozen=True)
class Wanted:
    """The source of the tokens."""

    name: str
    """The text's name in errors."""
    documents: Callable[[], Iterator[Document]]
    """The text, the same at every call."""
    tokenizer: TokenizerKind
    num_train_bytes: int
    num_bytes: int
    content_digest: str
    """sha256 of the text as one stream."""
    key: str

    def pieces(self) -> Iterator[tuple[bool, bytes]]:
        """The text as one stream, each piece with True if it is training text."""
        return split_pieces(joined(self.documents()), self.num_train_bytes)


@dataclass(frozen=True)
class Made:
    """Everything that was made."""

    vocabulary_size: int
    counts: PairCounts
    """Of the held-out text."""


def token_type(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest type that holds every token number."""
    if vocabulary_size <= 1 << 8:
        return np.dtype("<u1")
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def changed_meanwhile(name: str) -> NotRetryable:
    """The error for a text that changes between readings."""
    return NotRetryable("InvalidData", f"{name} must not change while a job reads it, but did between two readings")


def files_of(tokenizer: TokenizerKind) -> set[str]:
    """The names of the token files."""
    return {TRAIN_FILE, VALIDATION_FILE, *((TOKENIZER_FILE,) if tokenizer.learns else ())}


def make_tokens(folder: Path, wanted: Wanted) -> Made:
    """Write the token files to `folder`, or their missing part.

    Raises NotRetryable("InvalidData") if the text changes meanwhile.
    """
    with phase("ReadingData", alone=True) as pieces:
        mark = _read_mark(folder, wanted, pieces)
    tokenizer = read_tokenizer(folder, wanted.tokenizer) if mark is not None else None
    if tokenizer is None:
        mark = None
        remove(folder)
        folder.mkdir()
        tokenizer = _new_tokenizer(folder, wanted)
    content, counts = hashlib.sha256(), PairCounts()
    with (
        _File(folder / TRAIN_FILE, mark) as train,
        _File(folder / VALIDATION_FILE, mark) as validation,
        phase("Tokenizing", alone=True) as pieces,
    ):
        marks = _Marks(folder, wanted, (train, validation))
        if mark is None:
            marks.write(0)
        done = int(mark["position"]) if mark else 0
        position = 0
        for is_train, piece in wanted.pieces():
            content.update(piece)
            if not is_train:
                counts.add(piece)
            if position + len(piece) > done:
                for part in cut_between_words(piece, PART_BYTES):
                    tokens = tokenizer.encode(part).astype(token_type(tokenizer.vocabulary_size))
                    (train if is_train else validation).write(tokens.tobytes())
                    pieces.done(position, wanted.num_bytes)
                marks.write_if_due(position + len(piece))
            position += len(piece)
            pieces.done(position, wanted.num_bytes)
        marks.write(position)
    if content.hexdigest() != wanted.content_digest:
        raise changed_meanwhile(wanted.name)
    (folder / _MADE_FILE).unlink()
    return Made(tokenizer.vocabulary_size, counts)


def bytes_made(folder: Path) -> int | None:
    """Bytes of text that the maker in `folder` has tokenized; None if it has not begun."""
    try:
        real_folder(folder)
        position = read_json(folder / _MADE_FILE)["position"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return position if type(position) is int else None


def read_tokenizer(folder: Path, kind: TokenizerKind) -> TextTokenizer | None:
    """The tokenizer of that kind that an earlier maker learned; None if it is not the wanted one."""
    if not kind.learns:
        return kind.learn(())
    try:
        text = read_file(folder / TOKENIZER_FILE, max_bytes=_MAX_TOKENIZER_BYTES).decode()
        return kind.from_json(text)
    except (OSError, ValueError):
        return None


def _new_tokenizer(folder: Path, wanted: Wanted) -> TextTokenizer:
    if not wanted.tokenizer.learns:
        return wanted.tokenizer.learn(())
    with phase("LearningTokenizer", alone=True) as pieces:

        def train_pieces() -> Iterator[bytes]:
            position = 0
            for is_train, piece in wanted.pieces():
                if is_train:
                    yield piece
                position += len(piece)
                pieces.done(position, wanted.num_bytes)
            pieces.percent = None  # the next call takes an unknown time

        tokenizer = wanted.tokenizer.learn(train_pieces())
    write_atomically(folder / TOKENIZER_FILE, tokenizer.to_json().encode())
    return tokenizer


def _read_mark(folder: Path, wanted: Wanted, pieces: Pieces) -> dict[str, Any] | None:
    """The content of made.json, if it is of this text and the files are long enough; None: start again."""
    try:
        real_folder(folder)
        mark: dict[str, Any] = read_json(folder / _MADE_FILE)
        numbers = [mark["position"], *(record["bytes"] for record in mark["files"].values())]
        if (
            mark["key"] != wanted.key
            or mark["files"].keys() != files_of(wanted.tokenizer)
            or any(type(number) is not int for number in numbers)
        ):
            return None
        if not 0 <= mark["position"] <= wanted.num_bytes or not _is_border(mark["position"], wanted, pieces):
            return None
        for name, record in mark["files"].items():
            pieces.done()
            if _hash_of_start(folder / name, record["bytes"]).hexdigest() != record["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return mark


def _is_border(position: int, wanted: Wanted, pieces: Pieces) -> bool:
    """Whether a piece of the text ends there: other files may divide the same content differently."""
    reached = 0
    for _, piece in wanted.pieces():
        if reached >= position:
            break
        reached += len(piece)
        pieces.done(reached, position)
    return reached == position


def _hash_of_start(path: Path, num_bytes: int) -> Any:
    """sha256 of the first bytes. Raises ValueError if there are fewer."""
    digest, left = hashlib.sha256(), num_bytes
    with open_file(path) as stream:
        while left and (block := stream.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    if left:
        raise ValueError(f"{path} is too short")
    return digest


class _File:
    """A growing file of tokens, and the hash of its content."""

    def __init__(self, path: Path, mark: dict[str, Any] | None) -> None:
        self.path = path
        self.num_bytes = int(mark["files"][path.name]["bytes"]) if mark else 0
        self.digest = _hash_of_start(path, self.num_bytes) if mark else hashlib.sha256()
        self._stream: BinaryIO = path.open("r+b" if mark else "xb")
        self._stream.truncate(self.num_bytes)
        self._stream.seek(self.num_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self.digest.update(data)
        self.num_bytes += len(data)

    def sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())


class _Marks:
    """Writes made.json."""

    def __init__(self, folder: Path, wanted: Wanted, files: tuple[_File, ...]) -> None:
        self._folder, self._wanted, self._files = folder, wanted, files
        self._written_at = time.monotonic()
        tokenizer = folder / TOKENIZER_FILE
        self._also = {}
        if tokenizer.exists():
            content = read_file(tokenizer, max_bytes=_MAX_TOKENIZER_BYTES)
            self._also[TOKENIZER_FILE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def write_if_due(self, position: int) -> None:
        if time.monotonic() - self._written_at >= MARK_EVERY_SECONDS:
            self.write(position)

    def write(self, position: int) -> None:
        for file in self._files:
            file.sync()
        files = {file.path.name: {"bytes": file.num_bytes, "sha256": file.digest.hexdigest()} for file in self._files}
        mark = {"key": self._wanted.key, "position": position, "files": files | self._also}
        write_atomically(self._folder / _MADE_FILE, json.dumps(mark).encode())
        self._written_at = time.monotonic()
