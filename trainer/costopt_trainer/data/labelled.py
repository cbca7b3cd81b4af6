"""Samples of labelled text: each document is one, cut or filled up to the context length.

Tokens of all documents lie in the token cache as one stream, those of the training documents first. Where a document
begins follows from the separators between them, which no document holds.

Shape suffixes: B = samples of a batch, T = tokens of a sample, N = documents.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from costopt_trainer.data.documents import SEPARATOR
from costopt_trainer.data.reports import notes_of
from costopt_trainer.data.sources.table import LabelledSource
from costopt_trainer.data.token_cache import TokenShards, open_shards
from costopt_trainer.data.tokenizers.table import SpecialTokens, TokenizerKind, Tokens, with_special_tokens
from costopt_trainer.data.training_data import Batch, TrainingData
from costopt_trainer.data.transforms.table import Transform
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase

_TOKENS_AT_ONCE = 2**22


@dataclass(frozen=True)
class _Split:
    """The documents of one split."""

    tokens: Tokens
    starts_N: NDArray[np.int64]
    stops_N: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    context_length: int
    special: SpecialTokens

    @property
    def room(self) -> int:
        """Tokens of a document that a sample has room for."""
        return self.context_length - len(self.special.before) - len(self.special.after)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Documents by number (B,): tokens int64 (B, T), filled up behind, and classes int64 (B,)."""
        before, after = self.special.before, self.special.after
        inputs_BT = np.full((len(indices), self.context_length), self.special.pad_id, dtype=np.int64)
        for row_T, index in zip(inputs_BT, indices, strict=True):
            start, stop = self.starts_N[index], self.stops_N[index]
            text = self.tokens[start : min(stop, start + self.room)]
            row_T[: len(before)] = before
            row_T[len(before) : len(before) + len(text)] = text
            row_T[len(before) + len(text) : len(before) + len(text) + len(after)] = after
        return torch.from_numpy(inputs_BT), torch.from_numpy(self.labels_N[indices])

    def num_cut(self) -> int:
        """How many documents are longer than a sample."""
        return int(np.count_nonzero(self.stops_N - self.starts_N > self.room))


def labelled_documents(
    source: LabelledSource,
    transforms: Sequence[Transform],
    kind: TokenizerKind,
    cache_dir: Path,
    *,
    validation_percent: int,
    context_length: int,
) -> TrainingData:
    """The samples of `source`. Raises NotRetryable("InvalidData") if the documents cannot be told apart."""
    shards = open_shards(
        source,
        transforms,
        kind,
        validation_percent,
        cache_dir,
        is_held_out=source.is_held_out,
    )
    special, vocabulary_size = with_special_tokens(shards.tokenizer)
    with phase("ReadingData") as pieces:
        names, dropped, classes = [], set(shards.dropped.tolist()), set()
        for place, document in enumerate(source.documents()):
            if place not in dropped:
                names.append(document.name)
            elif not source.is_held_out(document.name):
                classes.add(source.class_of(document.name))
            pieces.done()
        _refuse_lost_classes(source, names, classes)
        train, validation = _splits(source, names, shards, context_length, special)
    cut = train.num_cut() + validation.num_cut()
    told = f"{len(train.labels_N):,} training and {len(validation.labels_N):,} held-out documents"
    cut_told = f"; {cut:,} are longer than {train.room} tokens and are cut" if cut else ""
    return TrainingData(
        num_train_samples=len(train.labels_N),
        num_validation_samples=len(validation.labels_N),
        tokens_per_sample=1,
        train_batch=train.batch,
        validation_batch=validation.batch,
        fingerprint=f"{shards.key}-{context_length}-{_hash_of_labels(source.class_names, train, validation)}",
        vocabulary_size=vocabulary_size,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        pad_id=special.pad_id,
        tokenizer=shards.tokenizer,
        notes=(
            *source.notes,
            *notes_of(shards),
            f"{told} in {len(source.class_names):,} classes{cut_told}",
        ),
    )


def _refuse_lost_classes(source: LabelledSource, names: Sequence[str], dropped: set[int]) -> None:
    """Raise NotRetryable("InvalidData") if transforms have dropped all training documents of a class.

    `names` are those of the documents that are left, `dropped` the classes of training documents that are not.
    """
    left = {source.class_of(name) for name in names if not source.is_held_out(name)}
    lost = [label for number, label in enumerate(source.class_names) if number in dropped - left]
    if lost:
        raise NotRetryable(
            "InvalidData",
            f"the data.transforms of {source.name} must leave training documents of each label, but dropped all of "
            f"{lost[0]!r}: loosen these settings, or leave such documents out",
        )


def _splits(
    source: LabelledSource, names: Sequence[str], shards: TokenShards, context_length: int, special: SpecialTokens
) -> tuple[_Split, _Split]:
    num_train = sum(not source.is_held_out(name) for name in names)
    labels_N = np.array([source.class_of(name) for name in names], dtype=np.int64)
    [separator] = shards.tokenizer.encode(SEPARATOR).tolist()
    splits = []
    # The separator between the two splits is the first token that is held out.
    for tokens, labels, skipped in (
        (shards.train, labels_N[:num_train], 0),
        (shards.validation, labels_N[num_train:], 1),
    ):
        between = _places(tokens, separator)
        starts_N = np.concatenate([np.zeros(1 - skipped, dtype=np.int64), between + 1])
        stops_N = np.concatenate([between[skipped:], np.array([len(tokens)], dtype=np.int64)])
        if len(labels) == 0 or len(starts_N) != len(labels):
            raise NotRetryable(
                "InvalidData",
                f"{source.name} must give documents to both splits that the tokenizer keeps apart, but {len(labels)} "
                f"of them became {len(starts_N)}",
            )
        splits.append(_Split(tokens, starts_N, stops_N, labels, context_length, special))
    return splits[0], splits[1]


def _places(tokens: Tokens, token: int) -> NDArray[np.int64]:
    """Where `token` stands. Read in parts, so that only one part is in memory."""
    parts = [
        np.flatnonzero(tokens[start : start + _TOKENS_AT_ONCE] == token) + start
        for start in range(0, len(tokens), _TOKENS_AT_ONCE)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _hash_of_labels(class_names: Sequence[str], *splits: _Split) -> str:
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for split in splits:
        digest.update(split.labels_N.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
