"""Tokens on disk: made once per content and settings, then memory-mapped by every rank.

    <cache_dir>/<key>/train.bin, validation.bin    token numbers, little-endian uint8, uint16 or uint32
                      tokenizer.json               what a tokenizer has learned
                      shards.json                  sizes, hashes, entropies: what the folder should hold

The key is a hash of the text's content and of the fingerprints of everything that changes the tokens, so a changed text
is never mistaken for the old one. A folder is made under a lock and a temporary name (see making.py) and renamed when
complete; each load checks its hashes, and that no token exceeds the vocabulary. A folder that is damaged, a link, or of
another key is made again.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, starmap, takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from costopt.files import sync_folder, write_atomically
from costopt.hostile import Hostile, append_file, make_folder, open_file, read_json, real_folder
from costopt_trainer.data import listing
from costopt_trainer.data.documents import Content, Document, Tally, content_of
from costopt_trainer.data.entropy import BIGRAM, UNIGRAM
from costopt_trainer.data.making import (
    TRAIN_FILE,
    VALIDATION_FILE,
    Made,
    Wanted,
    bytes_made,
    changed_meanwhile,
    files_of,
    make_tokens,
    read_tokenizer,
    token_type,
)
from costopt_trainer.data.sources.table import DocumentSource
from costopt_trainer.data.tokenizers.table import TextTokenizer, TokenizerKind, Tokens
from costopt_trainer.data.transforms.table import Changes, Transform, apply, changes_between
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove

FORMAT_VERSION = 1
"""Part of the key: raise it if the same text and settings give other files."""

LOCK_EVERY_SECONDS = 0.1
"""Between two tries to take a lock that another process holds."""

_CONTENTS = "shards.json"
_TOKENS_AT_ONCE = 2**22
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenShards:
    """A tokenized, split text and its figures."""

    train: Tokens
    """Training tokens, memory-mapped, 1-dimensional."""
    validation: Tokens
    """Held-out tokens, memory-mapped, 1-dimensional."""
    tokenizer: TextTokenizer
    num_validation_bytes: int
    """Bytes of text behind the held-out tokens."""
    reference_entropies: dict[str, float]
    """Entropies of the held-out bytes in nats per byte, by name (see entropy.py)."""
    key: str
    """Hash of content and settings, 64 hexadecimal digits."""
    changes: tuple[Changes, ...] = ()
    """What each transform did, in order."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the tokenizer, of which these shards need not have all."""
        return self.tokenizer.vocabulary_size


def open_shards(
    source: DocumentSource,
    transforms: Sequence[Transform],
    tokenizer: TokenizerKind,
    validation_percent: int,
    cache_dir: Path,
    *,
    is_held_out: Callable[[str], bool] | None = None,
) -> TokenShards:
    """The shards of `source` after `transforms`, from the cache or made now; safe for many processes at once.

    The last `validation_percent` of the bytes are held out; or, if `is_held_out` is given, all from the first document
    on whose name it says so (the separator before that one included).

    Raises NotRetryable("InvalidData") if the text is not readable UTF-8 or the cache folder cannot be written.
    """
    with phase("ReadingData") as pieces:
        content = content_of(source.documents(), pieces.done)
        key = _key(content.digest, transforms, tokenizer, validation_percent, by_documents=is_held_out is not None)
        folder = cache_dir / key[:32]
        shards = _read(folder, key, transforms, tokenizer)
    if shards is not None:
        listing.keep(cache_dir, key, content.sums)
        return shards
    try:
        make_folder(cache_dir)
        listing.keep(cache_dir, key, content.sums)
        with _lock(cache_dir / f".{folder.name}.lock", _partial(folder), content.num_bytes):
            shards = _read(folder, key, transforms, tokenizer)  # another rank may have made it meanwhile
            if shards is None:
                if os.path.lexists(folder):
                    _logger.warning("the token cache %s is damaged and is made again", folder)
                transformed, changes = _transformed(source, transforms, content)
                num_bytes = transformed.num_bytes
                num_train_bytes = num_bytes - num_bytes * validation_percent // 100
                if is_held_out is not None:
                    documents = apply(transforms, source.documents())
                    num_train_bytes = _bytes_before(documents, is_held_out)
                _make(
                    folder,
                    Wanted(
                        name=source.name,
                        documents=lambda: apply(transforms, source.documents()),
                        tokenizer=tokenizer,
                        num_train_bytes=num_train_bytes,
                        num_bytes=num_bytes,
                        content_digest=transformed.digest,
                        key=key,
                    ),
                    changes,
                )
                shards = _read(folder, key, transforms, tokenizer)
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


def _transformed(
    source: DocumentSource, transforms: Sequence[Transform], content: Content
) -> tuple[Content, tuple[Changes, ...]]:
    """What the text is after the transforms, and what each of them did; `content` is what the text was before."""
    if not transforms:
        return content, ()
    tallies = [Tally() for _ in range(len(transforms) + 1)]
    with phase("ReadingData", alone=True) as pieces:
        transformed = content_of(apply(transforms, source.documents(), tallies), pieces.done)
        # The key is that of the text as it was read first. A transform need not have read all of it just now.
        if content_of(source.documents(), pieces.done).digest != content.digest:
            raise changed_meanwhile(source.name)
    return transformed, tuple(starmap(changes_between, pairwise(tallies)))


def _bytes_before(documents: Iterable[Document], is_held_out: Callable[[str], bool]) -> int:
    """Length of the stream up to the first document that is held out, without the separator before that one."""
    with phase("ReadingData", alone=True) as pieces:
        return content_of(takewhile(lambda document: not is_held_out(document.name), documents), pieces.done).num_bytes


def _key(
    content_digest: str,
    transforms: Sequence[Transform],
    tokenizer: TokenizerKind,
    validation_percent: int,
    *,
    by_documents: bool,
) -> str:
    parts = {
        "format": FORMAT_VERSION,
        "content": content_digest,
        "validationPercent": validation_percent,
        **tokenizer.fingerprint(),
    }
    if by_documents:
        parts["split"] = "documents"
    if transforms:
        parts["transforms"] = [transform.fingerprint() for transform in transforms]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(folder: Path, key: str, transforms: Sequence[Transform], tokenizer: TokenizerKind) -> TokenShards | None:
    """The shards in `folder`, or None if it is missing, not what `shards.json` says, or of another key."""
    try:
        real_folder(folder.parent)
        real_folder(folder)
        contents = read_json(folder / _CONTENTS)
        if contents["key"] != key or contents["files"].keys() != files_of(tokenizer):
            return None
        for name, expected in contents["files"].items():
            with open_file(folder / name) as stream:
                if os.fstat(stream.fileno()).st_size != expected["bytes"]:
                    return None
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected["sha256"]:
                    return None
        own = read_tokenizer(folder, tokenizer)
        if own is None or own.vocabulary_size != contents["vocabularySize"]:
            return None
        shards = TokenShards(
            train=_map(folder / TRAIN_FILE, token_type(own.vocabulary_size)),
            validation=_map(folder / VALIDATION_FILE, token_type(own.vocabulary_size)),
            tokenizer=own,
            num_validation_bytes=contents["numValidationBytes"],
            reference_entropies=contents["referenceEntropies"],
            key=key,
            changes=tuple(Changes(**record) for record in contents.get("transforms", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return shards if _can_be_of(shards, tokenizer) and _can_be_by(shards, transforms) else None


def _can_be_of(shards: TokenShards, tokenizer: TokenizerKind) -> bool:
    """Whether a model can be trained on the shards: no token beyond the vocabulary, no invalid figure."""
    smallest, largest = tokenizer.vocabulary_sizes
    entropies = shards.reference_entropies
    return (
        smallest <= shards.vocabulary_size <= largest
        and type(shards.num_validation_bytes) is int
        and 0 <= shards.num_validation_bytes <= 10**15
        and isinstance(entropies, dict)
        and entropies.keys() == {UNIGRAM, BIGRAM}
        and all(type(entropy) in (int, float) and 0 <= entropy <= 8 for entropy in entropies.values())
        and all(_largest(tokens) < shards.vocabulary_size for tokens in (shards.train, shards.validation))
    )


def _can_be_by(shards: TokenShards, transforms: Sequence[Transform]) -> bool:
    figures = [figure for changes in shards.changes for figure in asdict(changes).values()]
    return len(shards.changes) == len(transforms) and all(type(figure) is int and figure >= 0 for figure in figures)


def _largest(tokens: Tokens) -> int:
    """The largest token; -1 if there is none. Read in parts, so that only one part is in memory."""
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

    A waiting process reports the holder's progress from the folder `partial`.
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


def _make(folder: Path, wanted: Wanted, changes: Sequence[Changes]) -> None:
    """Write the shards to `folder`, replacing it; the caller holds its lock."""
    partial = _partial(folder)
    try:
        made = make_tokens(partial, wanted)
        _describe(partial, wanted, made, changes)
        remove(folder)
        partial.replace(folder)
    except Exception:  # not a kill: after a kill the next maker goes on
        with contextlib.suppress(OSError):
            remove(partial)
        raise
    sync_folder(folder.parent)


def _describe(folder: Path, wanted: Wanted, made: Made, changes: Sequence[Changes]) -> None:
    contents = {
        "key": wanted.key,
        "vocabularySize": made.vocabulary_size,
        "numValidationBytes": made.counts.num_bytes,
        "referenceEntropies": made.counts.entropies(),
        "files": {name: _size_and_hash(folder / name) for name in sorted(files_of(wanted.tokenizer))},
    }
    if changes:
        contents["transforms"] = [asdict(change) for change in changes]
    write_atomically(folder / _CONTENTS, (json.dumps(contents, indent=2) + "\n").encode())


def _size_and_hash(path: Path) -> dict[str, Any]:
    with open_file(path) as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
