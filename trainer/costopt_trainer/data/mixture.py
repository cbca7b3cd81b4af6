"""The samples of several sources as those of one text: first all of the first source, then those of the next.

mixed_data        the sources of a mixture -> its samples; which comes when is said by orders/mixed.py
read_parts        the sources, read: their texts, and the tokenizer that all of them have
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema.data import SourceSettings
from costopt_trainer.data import listing
from costopt_trainer.data.beside import beside_each_other
from costopt_trainer.data.joint_tokenizer import learned_together
from costopt_trainer.data.orders.mixed import seed_of
from costopt_trainer.data.same_texts import Sums, refuse_same_texts
from costopt_trainer.data.sources.mixture import Part, naming
from costopt_trainer.data.sources.token_files import GivenTokenizer
from costopt_trainer.data.tokenizers.table import TokenizerKind, tokenizer_kind
from costopt_trainer.data.training_data import Batch, PartOfData, TrainingData
from costopt_trainer.data.transformed import Text
from costopt_trainer.errors import NotRetryable

MakeSamples = Callable[[Part, TokenizerKind, Text | None], TrainingData]
"""One source, the tokenizer of all, and its text as it was read if it has documents -> its samples."""


@dataclass(frozen=True)
class ReadParts:
    """Sources that were read once."""

    tokenizer: TokenizerKind
    texts: tuple[Text | None, ...]
    """Of each source, with its transforms; None for tokens that come ready-made."""


def read_parts(
    settings: SourceSettings, parts: Sequence[Part], cache_dir: Path, model_tokenizer: Path | None = None
) -> ReadParts:
    """Read all texts, and learn their tokenizer if it is one that learns.

    Raises NotRetryable("InvalidData") if a text of one source is held out and one of another source is the same.
    """
    sums = []
    for part in parts:
        with naming(part.name):
            sums.append(Sums(part))
    refuse_same_texts(sums)
    kind = tokenizer_kind(settings.tokenizer, model_tokenizer)
    texts = beside_each_other([own.text for own in sums if own.text])
    tokenizer = learned_together(kind, texts, cache_dir) if kind.learns and texts else kind
    in_order = iter(texts)
    return ReadParts(tokenizer, tuple(next(in_order) if own.text else None for own in sums))


def mixed_data(
    settings: SourceSettings,
    parts: Sequence[Part],
    make: MakeSamples,
    cache_dir: Path,
    model_tokenizer: Path | None = None,
) -> TrainingData:
    """The samples of all sources. Raises NotRetryable with a sentence for sources that cannot be mixed."""
    read = read_parts(settings, parts, cache_dir, model_tokenizer)
    data_S = []
    for part, text in zip(parts, read.texts, strict=True):
        with naming(part.name):
            data_S.append(make(part, read.tokenizer, text))
    what, remedy = VOCABULARY
    refuse_different(what, {part.name: own.vocabulary_size for part, own in zip(parts, data_S, strict=True)}, remedy)
    between = {part.name: own.separator_id for part, own in zip(parts, data_S, strict=True)}
    refuse_different("token between documents", between, "endOfTextToken")
    names = [part.name for part in parts]
    key = hashlib.sha256(
        json.dumps([[name, data.fingerprint] for name, data in zip(names, data_S, strict=True)]).encode()
    ).hexdigest()
    listing.keep_together(cache_dir, key, [data.fingerprint for data in data_S])
    return _joined(parts, data_S, key)


def _joined(parts: Sequence[Part], data_S: Sequence[TrainingData], key: str) -> TrainingData:
    train_S = np.cumsum([data.num_train_samples for data in data_S], dtype=np.int64)
    held_out_S = np.cumsum([data.num_validation_samples for data in data_S], dtype=np.int64)

    def of_epoch(numbers: NDArray[np.int64], epochs: NDArray[np.int64], seed: int) -> Batch:
        def own(source: int, local: NDArray[np.int64], here: NDArray[np.int64]) -> Batch:
            batch_of_epoch = data_S[source].batch_of_epoch
            if batch_of_epoch is None:
                return data_S[source].train_batch(local)
            return batch_of_epoch(local, epochs[here], seed_of(seed, parts[source].name))

        return _put_together(numbers, train_S, own)

    first, changes = data_S[0], any(data.batch_of_epoch is not None for data in data_S)
    of_text = [data for data in data_S if not isinstance(data.tokenizer, GivenTokenizer)]
    return TrainingData(
        num_train_samples=int(train_S[-1]),
        num_validation_samples=int(held_out_S[-1]),
        tokens_per_sample=first.tokens_per_sample,
        train_batch=lambda numbers: _put_together(
            numbers, train_S, lambda source, local, _here: data_S[source].train_batch(local)
        ),
        validation_batch=lambda numbers: _put_together(
            numbers, held_out_S, lambda source, local, _here: data_S[source].validation_batch(local)
        ),
        fingerprint=key,
        vocabulary_size=first.vocabulary_size,
        pad_id=first.pad_id,
        separator_id=first.separator_id,
        validation_bytes_per_token=_bytes_per_token(data_S),
        notes=tuple(f"{part.name}: {note}" for part, data in zip(parts, data_S, strict=True) for note in data.notes),
        batch_of_epoch=of_epoch if changes else None,
        tokenizer=(of_text or data_S)[0].tokenizer,
        parts=tuple(
            PartOfData(part.name, data.num_train_samples, data.num_validation_samples)
            for part, data in zip(parts, data_S, strict=True)
        ),
    )


def _put_together(
    numbers: NDArray[np.int64],
    stops_S: NDArray[np.int64],
    own: Callable[[int, NDArray[np.int64], NDArray[np.int64]], Batch],
) -> Batch:
    """The samples `numbers` (B,), in that order. `own` gives those of a source, by number there; it is told their
    places in `numbers`, too."""
    numbers = np.asarray(numbers, dtype=np.int64)
    sources = np.searchsorted(stops_S, numbers, side="right")
    found: Batch | None = None
    for source in np.unique(sources).tolist():
        here = np.flatnonzero(sources == source)
        local = numbers[here] - (stops_S[source - 1] if source else 0)
        part = own(source, local, here)
        if len(here) == len(numbers):
            return part
        if found is None:
            found = tuple(each.new_empty((len(numbers), *each.shape[1:])) for each in part)  # type: ignore[assignment]
        assert found is not None  # noqa: S101  just made
        for whole, each in zip(found, part, strict=True):
            whole[torch.from_numpy(here)] = each
    if found is None:
        raise ValueError("a batch must have samples")
    return found


def _bytes_per_token(data_S: Sequence[TrainingData]) -> float | None:
    """Over all held-out samples; None if that is not known of a source."""
    each = [data.validation_bytes_per_token for data in data_S]
    known = [one for one in each if one is not None]
    if len(known) < len(each):
        return None
    counts = [data.num_validation_samples for data in data_S]
    return sum(one * count for one, count in zip(known, counts, strict=True)) / sum(counts)


def refuse_different(what: str, of_sources: Mapping[str, int | None], remedy: str) -> None:
    """Raise NotRetryable("InvalidData") unless all sources, by name, have the same `what`."""
    (first, one), *others = of_sources.items()
    for name, other in others:
        if one != other:
            raise NotRetryable(
                "InvalidData",
                f"all sources of data.mixture must have one tokenizer, but the {what} of {first} is {one} "
                f"and that of {name} is {other}: give the {remedy}",
            )


VOCABULARY = ("vocabulary size", "data.tokenizer that made its tokens")
"""What must be the same, and what to give where it is not."""
