"""Tokens on disk: made once per content and settings, then memory-mapped by every rank.

    <cache_dir>/<key>/train.bin, validation.bin    token numbers, little-endian uint8, uint16 or uint32
                      tokenizer.json               for BPE
                      shards.json                  sizes, hashes, entropies: what the folder should hold

The key is a hash of the text's content and of every setting that changes the tokens, so a changed text is never
mistaken for the old one. A folder is made under a lock and a temporary name (see making.py) and renamed when whole;
each load checks its hashes, and a damaged folder is made again.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from costopt.files import sync_folder, write_atomically
from costopt.schema.recipe import Tokenizer
from costopt_trainer.data import listing
from costopt_trainer.data.making import (
    TOKENIZER_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
    Made,
    Wanted,
    bytes_made,
    make_tokens,
    token_type,
)
from costopt_trainer.data.text import SEPARATOR, TextSource, read_pieces
from costopt_trainer.data.tokenizer import LONGEST_WORD, Tokens
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import Pieces, phase

FORMAT_VERSION = 1
"""Part of the key: raise it when the same text and settings would give other files."""

LOCK_EVERY_SECONDS = 0.1
"""Between two tries to take a lock that another process holds."""

_CONTENTS = "shards.json"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenShards:
    """A tokenized text, split, and what is known of it."""

    train: Tokens
    """Training tokens, memory-mapped, 1-dimensional."""
    validation: Tokens
    """Held-out tokens, memory-mapped, 1-dimensional."""
    vocabulary_size: int
    num_validation_bytes: int
    """Bytes of text that the held-out tokens stand for."""
    reference_entropies: dict[str, float]
    """Entropies of the held-out bytes in nats per byte, by name (see entropy.py)."""
    key: str
    """Hash of content and settings, 64 hexadecimal digits."""


def open_shards(source: TextSource, settings: Tokenizer, validation_percent: int, cache_dir: Path) -> TokenShards:
    """The shards of `source`, from the cache or made now; safe for many processes at once.

    Raises NotRetryable("InvalidData") if the text is not readable UTF-8 or the cache folder cannot be written.
    """
    with phase("ReadingData") as pieces:
        digest, num_bytes, files = _content(source, pieces)
        key = _key(digest, settings, validation_percent)
        folder = cache_dir / key[:32]
        shards = _read(folder, key)
    if shards is not None:
        listing.keep(cache_dir, key, files)
        return shards
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        listing.keep(cache_dir, key, files)
        with _lock(cache_dir / f".{folder.name}.lock", _partial(folder), num_bytes):
            shards = _read(folder, key)  # another rank may have made it while this one waited
            if shards is None:
                if folder.exists():
                    _logger.warning("the token cache %s is damaged and is made again", folder)
                num_train_bytes = num_bytes - num_bytes * validation_percent // 100
                _make(folder, Wanted(source, settings, num_train_bytes, num_bytes, digest, key))
                shards = _read(folder, key)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise NotRetryable(
            "InvalidData",
            f"the token cache {cache_dir} must be a writable folder with room for the text's tokens, "
            f"but writing fails: {why}",
        ) from error
    if shards is None:
        raise OSError(f"the token cache {folder} reads back otherwise than it was written")
    return shards


def _content(source: TextSource, pieces: Pieces) -> tuple[str, int, dict[str, str]]:
    """sha256 of the whole stream, its length in bytes, and the files with the beginning of each one's own sum."""
    digest, num_bytes, files = hashlib.sha256(), 0, {}
    for number, file in enumerate(source.files):
        if number:
            digest.update(SEPARATOR)
            num_bytes += len(SEPARATOR)
        own = hashlib.sha256()
        for piece in read_pieces(TextSource(source.name, (file,))):
            digest.update(piece)
            own.update(piece)
            num_bytes += len(piece)
            pieces.done()
        files[str(file.path)] = own.hexdigest()[: listing.SUM_DIGITS]
    return digest.hexdigest(), num_bytes, files


def _key(content_digest: str, settings: Tokenizer, validation_percent: int) -> str:
    parts = {
        "format": FORMAT_VERSION,
        "content": content_digest,
        "tokenizer": settings.type,
        "vocabularySize": settings.vocabulary_size if settings.type == "BPE" else None,
        "validationPercent": validation_percent,
    }
    if settings.type == "BPE":
        parts["longestWord"] = LONGEST_WORD
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(folder: Path, key: str) -> TokenShards | None:
    """The shards in `folder`, or None if it is not there or not what `shards.json` says."""
    try:
        contents = json.loads((folder / _CONTENTS).read_bytes())
        if contents["key"] != key:
            return None
        for name, expected in contents["files"].items():
            if (folder / name).stat().st_size != expected["bytes"]:
                return None
            with (folder / name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected["sha256"]:
                    return None
        kind = token_type(contents["vocabularySize"])
        return TokenShards(
            train=_map(folder / TRAIN_FILE, kind),
            validation=_map(folder / VALIDATION_FILE, kind),
            vocabulary_size=contents["vocabularySize"],
            num_validation_bytes=contents["numValidationBytes"],
            reference_entropies=contents["referenceEntropies"],
            key=key,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _map(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # cannot be mapped
        return np.empty(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


@contextlib.contextmanager
def _lock(path: Path, partial: Path, num_bytes: int) -> Iterator[None]:
    """Held by one process at a time; released by the system if its holder dies.

    Whoever waits tells how far the holder is, as the folder `partial` shows.
    """
    with path.open("ab") as stream:
        if not _take(stream):
            known = bytes_made(partial)
            with phase("Tokenizing") as pieces:
                while not _take(stream):
                    time.sleep(LOCK_EVERY_SECONDS)
                    before, known = known, bytes_made(partial)
                    if known is not None and known != before:
                        pieces.done(known, num_bytes)
        yield


def _take(stream: BinaryIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(folder: Path, wanted: Wanted) -> None:
    """Write the shards to `folder`, replacing it; the caller holds its lock."""
    partial = _partial(folder)
    try:
        made = make_tokens(partial, wanted)
        _describe(partial, wanted, made)
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
    except Exception:  # not a kill: after that the next maker goes on
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _describe(folder: Path, wanted: Wanted, made: Made) -> None:
    files = (TRAIN_FILE, VALIDATION_FILE, *((TOKENIZER_FILE,) if wanted.settings.type == "BPE" else ()))
    contents = {
        "key": wanted.key,
        "vocabularySize": made.vocabulary_size,
        "numValidationBytes": made.counts.num_bytes,
        "referenceEntropies": made.counts.entropies(),
        "files": {name: _size_and_hash(folder / name) for name in sorted(files)},
    }
    write_atomically(folder / _CONTENTS, (json.dumps(contents, indent=2) + "\n").encode())


def _size_and_hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
