"""Tokens on disk: made once per content and settings, then memory-mapped by every rank.

    <cache_dir>/<key>/train.bin, validation.bin    token numbers, little-endian uint8, uint16 or uint32
                      tokenizer.json               what a tokenizer has learned
                      shards.json                  sizes, hashes, entropies: what the folder should hold
                      dropped.bin                  numbers of documents that were dropped, if any; little-endian int64

The key is a hash of the text's content and of the fingerprints of everything that changes the tokens, so a changed text
is never mistaken for the old one. A folder is made under a lock and a temporary name (see making.py) and renamed when
complete; each load checks its hashes, and that no token exceeds the vocabulary. A folder that is damaged, a link, or of
another key is made again.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costopt.files import sync_folder, write_atomically
from costopt.hostile import open_file, read_json, real_folder
from costopt.schema.data_report import DataReport, TransformReport
from costopt_trainer.data import listing, reports
from costopt_trainer.data.documents import Content, content_of
from costopt_trainer.data.entropy import BIGRAM, UNIGRAM
from costopt_trainer.data.made_once import Kept, made_once
from costopt_trainer.data.making import (
    Made,
    Wanted,
    files_of,
    help_to_make,
    make_tokens,
    read_tokenizer,
    shares_folder,
)
from costopt_trainer.data.marks import TRAIN_FILE, VALIDATION_FILE, bytes_made
from costopt_trainer.data.sources.table import DocumentSource
from costopt_trainer.data.tokenizers.table import TextTokenizer, TokenizerKind, Tokens
from costopt_trainer.data.tokenizing import token_type
from costopt_trainer.data.transformed import Text, Transformed, prepared, prepared_by_another
from costopt_trainer.data.transforms.pipeline import held_out_from
from costopt_trainer.data.transforms.table import Transform, drops_documents, word_of
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove

FORMAT_VERSION = 1
"""Part of the key: raise it if the same text and settings give other files."""

_CONTENTS, _DROPPED = "shards.json", "dropped.bin"
_TOKENS_AT_ONCE = 2**22
_TRIES_TO_HELP = 3
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
    dropped: NDArray[np.int64]
    """Documents that transforms have dropped: their places among those of the source, in order."""
    reports: tuple[TransformReport, ...] = ()
    """What each transform did, in order."""
    report: DataReport | None = None
    """The whole way from documents to tokens; None if an earlier version made the tokens."""

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
    content: Content | None = None,
) -> TokenShards:
    """The shards of `source` after `transforms`, from the cache or made now; safe for many processes at once.

    The last `validation_percent` of the bytes are held out; or, if `is_held_out` is given, all from the first document
    on whose name it says so (the separator before that one included). Where transforms may drop documents, whole
    documents are held out, too: which must be known before any is dropped. `content` is that of `source` where it was
    read just now, with names if any may be dropped.

    Raises NotRetryable("InvalidData") if the text is not readable UTF-8, the transforms leave nothing of it, or the
    cache folder cannot be written.
    """
    words = [word_of(transform) for transform in transforms]
    with phase("ReadingData") as pieces:
        may_drop = any(map(drops_documents, transforms))
        if content is None:
            content = content_of(source.documents(), pieces.done, with_names=may_drop or is_held_out is not None)
        if is_held_out is None:
            is_held_out = held_out_whole(transforms, content, validation_percent)
        key = _key(content, transforms, tokenizer, validation_percent, by_documents=is_held_out is not None)
    folder = cache_dir / key[:32]
    text = Text(source, transforms, content, is_held_out, validation_percent, key)

    def read() -> TokenShards | None:
        with phase("ReadingData"):
            return _read(folder, key, words, tokenizer)

    def make() -> None:
        if os.path.lexists(folder):
            _logger.warning("the token cache %s is damaged and is made again", folder)
        listing.keep(cache_dir, key, content.sums)
        _make(folder, text, tokenizer)

    shards = made_once(
        Kept(
            folder,
            of=_told(source, transforms, tokenizer),
            name="token cache",
            room_for="the text's tokens",
            read=read,
            make=make,
            phase="Tokenizing",
            made=lambda: bytes_made(_partial(folder)),
            num_bytes=content.num_bytes,
            help=_Helper(folder, text, tokenizer),
        )
    )
    listing.keep(cache_dir, key, content.sums)
    return shards


def held_out_whole(
    transforms: Sequence[Transform], content: Content, validation_percent: int
) -> Callable[[str], bool] | None:
    """Whether the document of a name is held out, where transforms may drop documents; None: the last bytes are."""
    if not any(map(drops_documents, transforms)):
        return None
    held_out = held_out_from(content, validation_percent)
    return held_out.__contains__ if held_out else None


def _told(source: DocumentSource, transforms: Sequence[Transform], tokenizer: TokenizerKind) -> str:
    """What the tokens are of, for people."""
    made = tokenizer.fingerprint()
    size = made.get("vocabularySize")
    how = f"{made['tokenizer']} {size:,}" if isinstance(size, int) else str(made["tokenizer"])
    return ", ".join([reports.printable(source.name), *map(word_of, transforms), how])


def _key(
    content: Content,
    transforms: Sequence[Transform],
    tokenizer: TokenizerKind,
    validation_percent: int,
    *,
    by_documents: bool,
) -> str:
    parts = {
        "format": FORMAT_VERSION,
        "content": content.digest,
        "validationPercent": validation_percent,
        **tokenizer.fingerprint(),
    }
    if by_documents:
        parts["split"] = "documents"
    if any(map(drops_documents, transforms)):
        # A byte 0 in a text is taken for the end of a document by the stream's hash, and not by those who judge.
        parts["documents"] = hashlib.sha256(content.sizes.tobytes()).hexdigest()
    if transforms:
        parts["transforms"] = [transform.fingerprint() for transform in transforms]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(folder: Path, key: str, words: Sequence[str], tokenizer: TokenizerKind) -> TokenShards | None:
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
            dropped=_read_dropped(folder, contents.get("dropped")),
            reports=tuple(
                TransformReport.model_validate(record).model_copy(update={"type": word})
                for word, record in zip(words, contents.get("transforms", ()), strict=True)
            ),
            report=reports.read(folder),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return shards if _can_be_of(shards, tokenizer) else None


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


def _read_dropped(folder: Path, expected: Any) -> NDArray[np.int64]:
    """Raises ValueError if they are not those that shards.json tells of."""
    if expected is None:
        return np.empty(0, dtype=np.int64)
    with open_file(folder / _DROPPED) as stream:
        content = stream.read()
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise ValueError(f"{folder / _DROPPED} is damaged")
    return np.frombuffer(content, dtype="<i8").astype(np.int64)


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


def _text_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.text")


def _wanted(text: Text, ready: Transformed, tokenizer: TokenizerKind) -> Wanted:
    return Wanted(
        name=text.source.name,
        stream=ready.stream,
        tokenizer=tokenizer,
        num_train_bytes=ready.num_train_bytes,
        num_bytes=ready.num_bytes,
        content_digest=ready.digest,
        key=text.key,
    )


class _Helper:
    """Makes shares of the tokens while another process holds their lock. Its troubles are no reason to fail: whoever
    holds the lock makes what is missing, and tells what is wrong."""

    def __init__(self, folder: Path, text: Text, tokenizer: TokenizerKind) -> None:
        self._folder, self._text, self._tokenizer = folder, text, tokenizer
        self._tries_left = _TRIES_TO_HELP

    def __call__(self) -> None:
        if not self._tries_left:
            return
        try:
            if help_to_make(_partial(self._folder), self._text.key, self._tokenizer, self._ready):
                self._tries_left = 0
        except Exception as error:  # noqa: BLE001  see above
            _logger.info("no more help with the tokens: %s", error)
            self._tries_left -= 1

    def _ready(self) -> Wanted | None:
        ready = prepared_by_another(self._text, _text_folder(self._folder))
        return None if ready is None else _wanted(self._text, ready, self._tokenizer)


def _make(folder: Path, text: Text, tokenizer: TokenizerKind) -> None:
    """Write the shards to `folder`, replacing it; the caller holds its lock."""
    partial, text_folder = _partial(folder), _text_folder(folder)
    try:
        ready = prepared(text, text_folder)
        wanted = _wanted(text, ready, tokenizer)
        made = make_tokens(partial, wanted)
        _describe(partial, wanted, made, ready)
        reports.keep(folder, text, ready, partial, made)
        remove(folder)
        partial.replace(folder)
        remove(text_folder)
    except Exception:  # not a kill: after a kill the next maker goes on
        for left in (partial, shares_folder(partial), text_folder):
            with contextlib.suppress(OSError):
                remove(left)
        raise
    sync_folder(folder.parent)


def _describe(folder: Path, wanted: Wanted, made: Made, text: Transformed) -> None:
    contents = {
        "key": wanted.key,
        "vocabularySize": made.vocabulary_size,
        "numValidationBytes": made.counts.num_bytes,
        "referenceEntropies": made.counts.entropies(),
        "files": {name: _size_and_hash(folder / name) for name in sorted(files_of(wanted.tokenizer))},
    }
    if text.reports:
        contents["transforms"] = [report.to_plain() for report in text.reports]
    if len(text.dropped):
        (folder / _DROPPED).write_bytes(text.dropped.tobytes())
        contents["dropped"] = _size_and_hash(folder / _DROPPED)
    write_atomically(folder / _CONTENTS, (json.dumps(contents, indent=2) + "\n").encode())


def _size_and_hash(path: Path) -> dict[str, Any]:
    with open_file(path) as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
