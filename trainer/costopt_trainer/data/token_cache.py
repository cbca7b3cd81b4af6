"""Tokens on disk: made once per content and settings, then memory-mapped by every rank.

    <cache_dir>/<key>/train.bin, validation.bin    token numbers, little-endian uint8, uint16 or uint32
                      tokenizer.json               for BPE
                      shards.json                  sizes, hashes, entropies: what the folder should hold

The key is a hash of the text's content and of every setting that changes the tokens, so a changed text is never
mistaken for the old one. A folder is made under a lock and a temporary name (see making.py) and renamed when whole;
each load checks its hashes, and that no token is beyond the vocabulary. A folder that is damaged, a link, or of
something else is made again.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from costopt.files import sync_folder, write_atomically
from costopt.hostile import Hostile, append_file, make_folder, open_file, read_json, real_folder
from costopt.schema.recipe import Tokenizer
from costopt_trainer.data import listing
from costopt_trainer.data.entropy import BIGRAM, UNIGRAM
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
from costopt_trainer.storage.checkpoint_files import remove

FORMAT_VERSION = 1
"""Part of the key: raise it when the same text and settings would give other files."""

LOCK_EVERY_SECONDS = 0.1
"""Between two tries to take a lock that another process holds."""

_CONTENTS = "shards.json"
_TOKENS_AT_ONCE = 2**22
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
        shards = _read(folder, key, settings)
    if shards is not None:
        listing.keep(cache_dir, key, files)
        return shards
    try:
        make_folder(cache_dir)
        listing.keep(cache_dir, key, files)
        with _lock(cache_dir / f".{folder.name}.lock", _partial(folder), num_bytes):
            shards = _read(folder, key, settings)  # another rank may have made it while this one waited
            if shards is None:
                if os.path.lexists(folder):
                    _logger.warning("the token cache %s is damaged and is made again", folder)
                num_train_bytes = num_bytes - num_bytes * validation_percent // 100
                _make(folder, Wanted(source, settings, num_train_bytes, num_bytes, digest, key))
                shards = _read(folder, key, settings)
    except Hostile as error:
        raise NotRetryable("InvalidData", f"the token cache cannot be used: {error}") from error
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


def _read(folder: Path, key: str, settings: Tokenizer) -> TokenShards | None:
    """The shards in `folder`, or None if it is not there, not what `shards.json` says, or none of these settings."""
    try:
        real_folder(folder.parent)
        real_folder(folder)
        contents = read_json(folder / _CONTENTS)
        if contents["key"] != key or contents["files"].keys() != set(_files(settings)):
            return None
        for name, expected in contents["files"].items():
            with open_file(folder / name) as stream:
                if os.fstat(stream.fileno()).st_size != expected["bytes"]:
                    return None
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected["sha256"]:
                    return None
        shards = TokenShards(
            train=_map(folder / TRAIN_FILE, token_type(contents["vocabularySize"])),
            validation=_map(folder / VALIDATION_FILE, token_type(contents["vocabularySize"])),
            vocabulary_size=contents["vocabularySize"],
            num_validation_bytes=contents["numValidationBytes"],
            reference_entropies=contents["referenceEntropies"],
            key=key,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return shards if _can_be_of(shards, settings) else None


def _can_be_of(shards: TokenShards, settings: Tokenizer) -> bool:
    """Whether a model can be trained on the shards: no token beyond the vocabulary, no figure that is none."""
    sizes = (256, 256) if settings.type == "Byte" else (256, settings.vocabulary_size)
    entropies = shards.reference_entropies
    return (
        type(shards.vocabulary_size) is int
        and sizes[0] <= shards.vocabulary_size <= sizes[1]
        and type(shards.num_validation_bytes) is int
        and 0 <= shards.num_validation_bytes <= 10**15
        and isinstance(entropies, dict)
        and entropies.keys() == {UNIGRAM, BIGRAM}
        and all(type(entropy) in (int, float) and 0 <= entropy <= 8 for entropy in entropies.values())
        and all(_largest(tokens) < shards.vocabulary_size for tokens in (shards.train, shards.validation))
    )


def _largest(tokens: Tokens) -> int:
    """The largest token; -1 of none. In parts, so that no more than a part need be in memory at once."""
    parts = (tokens[start : start + _TOKENS_AT_ONCE] for start in range(0, len(tokens), _TOKENS_AT_ONCE))
    return max((int(part.max()) for part in parts), default=-1)


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
    with _lock_file(path) as stream:
        if not _take(stream):
            known = bytes_made(partial)
            with phase("Tokenizing") as pieces:
                while not _take(stream):
                    time.sleep(LOCK_EVERY_SECONDS)
                    before, known = known, bytes_made(partial)
                    if known is not None and known != before:
                        pieces.done(known, num_bytes)
        yield


def _lock_file(path: Path) -> BinaryIO:
    try:
        return append_file(path)
    except Hostile as error:
        raise Hostile(f"{path} {error}: remove it") from error


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
        remove(folder)
        partial.replace(folder)
    except Exception:  # not a kill: after that the next maker goes on
        with contextlib.suppress(OSError):
            remove(partial)
        raise
    sync_folder(folder.parent)


def _files(settings: Tokenizer) -> tuple[str, ...]:
    return (TRAIN_FILE, VALIDATION_FILE, *((TOKENIZER_FILE,) if settings.type == "BPE" else ()))


def _describe(folder: Path, wanted: Wanted, made: Made) -> None:
    files = _files(wanted.settings)
    contents = {
        "key": wanted.key,
        "vocabularySize": made.vocabulary_size,
        "numValidationBytes": made.counts.num_bytes,
        "referenceEntropies": made.counts.entropies(),
        "files": {name: _size_and_hash(folder / name) for name in sorted(files)},
    }
    write_atomically(folder / _CONTENTS, (json.dumps(contents, indent=2) + "\n").encode())


def _size_and_hash(path: Path) -> dict[str, Any]:
    with open_file(path) as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
