"""Labelled documents: records with a text and a label each.

All records are read and checked at the start, so that a mistake in the last one ends the job before anything is built.
Texts are then read again where they are needed: only labels and names are in memory.

Documents are held out by place, in a fixed shuffled order, because files are often sorted by class. Those to train on
come first, for the stream of documents has its held-out end behind.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from costopt.schema.data import SourceSettings
from costopt_trainer.data.documents import Document, in_pieces
from costopt_trainer.data.making import changed_meanwhile
from costopt_trainer.data.records.fields import Label
from costopt_trainer.data.records.reading import RecordReader
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase

MAX_CLASSES = 10_000


class LabelledText:
    """A source of documents, each with a class."""

    def __init__(self, settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None) -> None:
        """Read and check all records. Raises NotRetryable("InvalidData") of one sentence."""
        own = settings.labelled_text
        if own is None:
            raise ValueError("data of type LabelledText must have labelledText settings")
        self._reader = RecordReader(
            "data.labelledText",
            own,
            label_field=own.label_field,
            labels=own.labels,
            own_folder=own_folder,
            cache_dir=cache_dir,
        )
        self.name = self._reader.name
        labels: dict[str, Label] = {}
        with phase("ReadingData") as pieces:
            for sample in self._reader.samples():
                if sample.label is not None:
                    labels[sample.where] = sample.label
                pieces.done()
        self._held_out = _held_out(list(labels), settings.validation_percent, self.name)
        if own.labels is None:
            self._labels, self.class_names = _classes(labels, self._held_out, self.name)
        else:
            numbers = {label: number for number, label in enumerate(own.labels)}
            self._labels = {place: numbers[str(label)] for place, label in labels.items()}
            self.class_names = tuple(own.labels)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, in words."""
        return self._reader.notes

    def documents(self) -> Iterator[Document]:
        """The training documents, then those that are held out."""
        for held_out in (False, True):
            for sample in self._reader.samples():
                if sample.where not in self._labels:
                    raise changed_meanwhile(self.name)
                if (sample.where in self._held_out) == held_out:
                    yield Document(sample.where, partial(in_pieces, sample.text), sample.file)

    def is_held_out(self, name: str) -> bool:
        """Whether the document of that name is for evaluation."""
        return name in self._held_out

    def class_of(self, name: str) -> int:
        """The class of the document of that name."""
        return self._labels[name]


def _held_out(places: list[str], percent: int, name: str) -> frozenset[str]:
    count = len(places)
    if count < 2:
        raise _invalid(name, f"must hold at least 2 documents, one to train on and one to hold out, but holds {count}")
    order_N = sample_indices(seed=0, position=0, count=count, num_samples=count)
    held_N: NDArray[np.int64] = order_N[count - max(1, count * percent // 100) :]
    return frozenset(places[number] for number in held_N.tolist())


def _classes(labels: dict[str, Label], held_out: frozenset[str], name: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """The class of each document by its place, and the label of each class."""
    first_place, first = next(iter(labels.items()))
    for place, label in labels.items():
        if type(label) is not type(first):
            raise _invalid(
                name,
                f"must have labels that are all words or all whole numbers, but {first_place}, has {first!r} and "
                f"{place}, has {label!r}",
            )
    classes = sorted({label for place, label in labels.items() if place not in held_out})
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise _invalid(
            name, f"must have 2 to {MAX_CLASSES:,} labels among its training documents, but has {len(classes)}"
        )
    numbers = {label: number for number, label in enumerate(classes)}
    for place, label in labels.items():
        if label not in numbers:
            raise _invalid(
                name,
                f"must have training documents of each label, but {label!r} is the label of documents that are held "
                f"out alone, such as {place}: give more of it, or leave it out",
            )
    return {place: numbers[label] for place, label in labels.items()}, tuple(str(label) for label in classes)


def _invalid(what: str, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"{what} {demand}")
