"""Tokens on disk: made once per content and settings, then memory-mapped by every rank.

    <cache_dir>/<key>/train.bin, validation.bin    token numbers, little-endian uint8, uint16 or uint32
                      tokenizer.json               for BPE
                      shards.json                  sizes, hashes, entropies: what the folder should hold

The key is a hash of the text's content and of every setting that changes the tokens, so a changed text is never
mistaken for the old one. A folder is made under a lock and a temporary name and renamed when whole; each load checks
its hashes, and a damaged folder is made again.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from costopt.files import sync_folder, write_atomically
from costopt.schema.recipe import Tokenizer
from costopt_trainer.data.entropy import PairCounts
from costopt_trainer.data.text import TextSource, read_pieces, split_pieces
from costopt_trainer.data.tokenizer import BytePairTokenizer, ByteTokenizer, TextTokenizer, Tokens
from costopt_trainer.errors import NotRetryable

FORMAT_VERSION = 1
"""Part of the key: raise it when the same text and settings would give other files."""

_CONTENTS = "shards.json"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """What the shards are to be made from."""

    source: TextSource
    settings: Tokenizer
    num_train_bytes: int
    content_digest: str
    key: str


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
    digest, num_bytes = _content(source)
    key = _key(digest, settings, validation_percent)
    folder = cache_dir / key[:32]
    shards = _read(folder, key)
    if shards is not None:
        return shards
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _lock(cache_dir / f".{folder.name}.lock"):
            shards = _read(folder, key)  # another rank may have made it while this one waited
            if shards is None:
                if folder.exists():
                    _logger.warning("the token cache %s is damaged and is made again", folder)
                num_train_bytes = num_bytes - num_bytes * validation_percent // 100
                _make(folder, _Wanted(source, settings, num_train_bytes, digest, key))
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


def _content(source: TextSource) -> tuple[str, int]:
    """sha256 of the whole stream, and its length in bytes."""
    digest, num_bytes = hashlib.sha256(), 0
    for piece in read_pieces(source):
        digest.update(piece)
        num_bytes += len(piece)
    return digest.hexdigest(), num_bytes


def _key(content_digest: str, settings: Tokenizer, validation_percent: int) -> str:
    parts = {
        "format": FORMAT_VERSION,
        "content": content_digest,
        "tokenizer": settings.type,
        "vocabularySize": settings.vocabulary_size if settings.type == "BPE" else None,
        "validationPercent": validation_percent,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _token_type(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest type that holds every token number."""
    if vocabulary_size <= 1 << 8:
        return np.dtype("<u1")
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


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
        token_type = _token_type(contents["vocabularySize"])
        return TokenShards(
            train=_map(folder / "train.bin", token_type),
            validation=_map(folder / "validation.bin", token_type),
            vocabulary_size=contents["vocabularySize"],
            num_validation_bytes=contents["numValidationBytes"],
            reference_entropies=contents["referenceEntropies"],
            key=key,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _map(path: Path, token_type: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # cannot be mapped
        return np.empty(0, dtype=token_type)
    return np.memmap(path, dtype=token_type, mode="r")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; released by the system if its holder dies."""
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _make(folder: Path, wanted: _Wanted) -> None:
    """Write the shards to `folder`, replacing it; the caller holds its lock."""
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a maker that died
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        _write_shards(temporary, wanted)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _write_shards(folder: Path, wanted: _Wanted) -> None:
    tokenizer: TextTokenizer = ByteTokenizer()
    if wanted.settings.type == "BPE":
        pieces = split_pieces(read_pieces(wanted.source), wanted.num_train_bytes)
        train_pieces = (piece for is_train, piece in pieces if is_train)
        learned = BytePairTokenizer.train(train_pieces, wanted.settings.vocabulary_size)
        write_atomically(folder / "tokenizer.json", learned.to_json().encode())
        tokenizer = learned
    token_type = _token_type(tokenizer.vocabulary_size)
    content, counts = hashlib.sha256(), PairCounts()
    with (folder / "train.bin").open("xb") as train, (folder / "validation.bin").open("xb") as validation:
        for is_train, piece in split_pieces(read_pieces(wanted.source), wanted.num_train_bytes):
            content.update(piece)
            if not is_train:
                counts.add(piece)
            (train if is_train else validation).write(tokenizer.encode(piece).astype(token_type).tobytes())
        _sync(train)
        _sync(validation)
    if content.hexdigest() != wanted.content_digest:
        raise NotRetryable(
            "InvalidData", f"{wanted.source.name} must not change while a job reads it, but did between two readings"
        )
    contents = {
        "key": wanted.key,
        "vocabularySize": tokenizer.vocabulary_size,
        "numValidationBytes": counts.num_bytes,
        "referenceEntropies": counts.entropies(),
        "files": {path.name: _size_and_hash(path) for path in sorted(folder.iterdir())},
    }
    write_atomically(folder / _CONTENTS, (json.dumps(contents, indent=2) + "\n").encode())


def _size_and_hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
