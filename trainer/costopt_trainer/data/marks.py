"""How far the tokens of a text are made, on disk: after a kill the next maker goes on from there.

    .<key>.partial/     train.bin, validation.bin    tokens so far
                        tokenizer.json               once one is learned
                        made.json                    how far the files are valid, and their hashes

made.json is written every few seconds, after the data it describes is on disk. Later data in the files is cut off; a
file that does not match made.json is made from the start.

Mark           what made.json says
GrowingFile    a file of tokens
Marks          writes made.json
"""

import hashlib
import json
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from costopt.files import write_atomically
from costopt.hostile import open_file, read_file, read_json, real_folder

TRAIN_FILE, VALIDATION_FILE, TOKENIZER_FILE = "train.bin", "validation.bin", "tokenizer.json"
MAX_TOKENIZER_BYTES = 2**26
"""Of a tokenizer.json; one of 262,144 tokens has a third of that."""
MARK_EVERY_SECONDS = 5.0
"""Between two writes of made.json: what a kill costs."""

_MADE_FILE = "made.json"


@dataclass(frozen=True)
class Mark:
    """What made.json says."""

    key: str
    position: int
    """Bytes of the text whose tokens are in the files."""
    files: dict[str, tuple[int, str]]
    """Bytes and sha256 of each file, by its name."""

    @property
    def tokenizer_digest(self) -> str:
        """sha256 of what was learned; empty if nothing was."""
        return self.files.get(TOKENIZER_FILE, (0, ""))[1]


def read_mark(folder: Path, key: str, names: Collection[str]) -> Mark | None:
    """The mark in `folder`; None if there is none of this text and these files."""
    try:
        real_folder(folder)
        plain: dict[str, Any] = read_json(folder / _MADE_FILE)
        files = {name: (record["bytes"], record["sha256"]) for name, record in plain["files"].items()}
        mark = Mark(plain["key"], plain["position"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    numbers = [mark.position, *(num_bytes for num_bytes, _ in files.values())]
    if mark.key != key or files.keys() != set(names) or any(type(number) is not int for number in numbers):
        return None
    return mark


def bytes_made(folder: Path) -> int | None:
    """Bytes of text whose tokens are in `folder`; None if its maker has not begun."""
    try:
        real_folder(folder)
        position = read_json(folder / _MADE_FILE)["position"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return position if type(position) is int else None


def hash_of_start(path: Path, num_bytes: int) -> Any:
    """sha256 of the first bytes. Raises ValueError if there are fewer."""
    digest, left = hashlib.sha256(), num_bytes
    with open_file(path) as stream:
        while left and (block := stream.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    if left:
        raise ValueError(f"{path} is too short")
    return digest


class GrowingFile:
    """A growing file of tokens, and the hash of its content."""

    def __init__(self, path: Path, mark: Mark | None) -> None:
        self.path = path
        self.num_bytes = mark.files[path.name][0] if mark else 0
        self.digest = hash_of_start(path, self.num_bytes) if mark else hashlib.sha256()
        self._stream: BinaryIO = path.open("r+b" if mark else "xb")
        self._stream.truncate(self.num_bytes)
        self._stream.seek(self.num_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> None:
        """Put it behind what is there."""
        self._stream.write(data)
        self.digest.update(data)
        self.num_bytes += len(data)

    def sync(self) -> None:
        """Have it on disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())


class Marks:
    """Writes made.json."""

    def __init__(self, folder: Path, key: str, files: tuple[GrowingFile, ...]) -> None:
        self._folder, self._key, self.files = folder, key, files
        self._written_at = time.monotonic()
        tokenizer = folder / TOKENIZER_FILE
        self._also: dict[str, dict[str, Any]] = {}
        if tokenizer.exists():
            content = read_file(tokenizer, max_bytes=MAX_TOKENIZER_BYTES)
            self._also[TOKENIZER_FILE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    @property
    def tokenizer_digest(self) -> str:
        """sha256 of what was learned; empty if nothing was."""
        return str(self._also.get(TOKENIZER_FILE, {}).get("sha256", ""))

    def are_due(self) -> bool:
        """Whether the last one is long ago."""
        return time.monotonic() - self._written_at >= MARK_EVERY_SECONDS

    def write(self, position: int) -> None:
        """The tokens of the text up to `position` are in the files."""
        for file in self.files:
            file.sync()
        files = {file.path.name: {"bytes": file.num_bytes, "sha256": file.digest.hexdigest()} for file in self.files}
        mark = {"key": self._key, "position": position, "files": files | self._also}
        write_atomically(self._folder / _MADE_FILE, json.dumps(mark).encode())
        self._written_at = time.monotonic()

    def remove(self) -> None:
        """All is made."""
        (self._folder / _MADE_FILE).unlink()
