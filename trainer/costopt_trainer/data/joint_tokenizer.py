"""One tokenizer for several texts, learned from the training part of all of them.

    <cache_dir>/<key>.tokenizer.json    the tokenizer, and its hash

learned_together    a kind that learns, and texts -> a kind that has learned
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from costopt.files import write_atomically
from costopt.hostile import parse_json, read_file
from costopt_trainer.data.documents import split_pieces
from costopt_trainer.data.made_once import Kept, made_once
from costopt_trainer.data.tokenizers.table import TextTokenizer, TokenizerKind
from costopt_trainer.data.transformed import Text, prepared
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove

_MAX_BYTES = 2**27
"""Of the file: of 262,144 tokens it has a sixth of that."""


class _Learned:
    """A kind that has learned already."""

    learns = False

    def __init__(self, kind: TokenizerKind, tokenizer: TextTokenizer, key: str) -> None:
        self._kind, self._tokenizer, self._key = kind, tokenizer, key
        self.vocabulary_sizes = kind.vocabulary_sizes

    def fingerprint(self) -> dict[str, Any]:
        """That of its kind, and what it has learned from."""
        return {**self._kind.fingerprint(), "learnedFrom": self._key}

    def learn(self, pieces: Iterable[bytes]) -> TextTokenizer:
        """What was learned."""
        del pieces
        return self._tokenizer

    def from_json(self, text: str) -> TextTokenizer:
        """As its kind does."""
        return self._kind.from_json(text)


def learned_together(kind: TokenizerKind, texts: Sequence[Text], cache_dir: Path) -> TokenizerKind:
    """The tokenizer of the texts after their transforms, one behind the other; from the cache, or learned now.

    Raises NotRetryable("InvalidData") if transforms leave nothing of a text, or the cache cannot be written.
    """
    parts = [[text.key, text.percent, [transform.fingerprint() for transform in text.transforms]] for text in texts]
    key = hashlib.sha256(json.dumps([parts, kind.fingerprint()], sort_keys=True).encode()).hexdigest()
    path = cache_dir / f"{key[:32]}.tokenizer.json"

    def read() -> TextTokenizer | None:
        try:
            found = parse_json(read_file(path, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES)
            text = found["tokenizer"]
            if found["key"] != key or hashlib.sha256(text.encode()).hexdigest() != found["sha256"]:
                return None
            return kind.from_json(text)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def make() -> None:
        with phase("LearningTokenizer", alone=True):
            text = kind.learn(_training_pieces(texts, cache_dir / f".{key[:32]}.text")).to_json()
        found = {"key": key, "sha256": hashlib.sha256(text.encode()).hexdigest(), "tokenizer": text}
        write_atomically(path, json.dumps(found).encode())

    tokenizer = made_once(
        Kept(
            cache_dir / key[:32],
            of=f"the tokenizer of {', '.join(text.source.name for text in texts)}",
            name="cache of tokenizers",
            room_for="a tokenizer",
            read=read,
            make=make,
            phase="LearningTokenizer",
        )
    )
    return _Learned(kind, tokenizer, key)


def _training_pieces(texts: Sequence[Text], folder: Path) -> Iterator[bytes]:
    """`folder` has what transforms write down of one text."""
    for text in texts:
        try:
            ready = prepared(text, folder)
            yield from (piece for is_train, piece in split_pieces(ready.stream(), ready.num_train_bytes) if is_train)
        finally:
            remove(folder)
