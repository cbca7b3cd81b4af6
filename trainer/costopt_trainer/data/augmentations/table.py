"""What an augmentation is, and the table of them.

Augmentation    a change of training samples
augmented       data -> the same data, its training samples changed
identity_of     settings -> what must be equal for a training to go on
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from costopt.schema.augmentations import Augmentation as Settings
from costopt.schema.unions import settings_named
from costopt_trainer.data.augmentations.draws import Draws
from costopt_trainer.data.training_data import Batch, TrainingData
from costopt_trainer.tables import row


class Augmentation(Protocol):
    """A change of training samples that keeps shapes and types.

    What it gives of a sample is a function of the sample and of its draws alone, whatever else is in the batch. May be
    called from any thread.
    """

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """The samples as they are after it; those given are not changed."""


_HERE = "costopt_trainer.data.augmentations"
AUGMENTATIONS: dict[str, str] = {
    "TokenDropout": f"{_HERE}.tokens:TokenDropout",
    "SpanCorruption": f"{_HERE}.tokens:SpanCorruption",
    "Reorder": f"{_HERE}.words:Reorder",
    "InsertWords": f"{_HERE}.words:InsertWords",
    "Synonyms": f"{_HERE}.words:Synonyms",
    "Flip": f"{_HERE}.geometry:Flip",
    "Crop": f"{_HERE}.geometry:Crop",
    "Rotate": f"{_HERE}.geometry:Rotate",
    "Color": f"{_HERE}.pixels:Color",
    "Noise": f"{_HERE}.pixels:Noise",
    "Cutout": f"{_HERE}.pixels:Cutout",
    "Mixup": f"{_HERE}.pixels:Mixup",
}
"""`recipe.data.augmentations[].type` -> a callable (settings, data) -> Augmentation. `data` is without augmentations;
NotRetryable("InvalidSettings") if they do not fit together."""


def augmented(data: TrainingData, settings: Sequence[Settings]) -> TrainingData:
    """The data, with training samples changed as `settings` say, in order; without settings the data itself.

    `train_batch` and `validation_batch` stay, and so does the fingerprint, which is of the samples before.
    """
    if not settings:
        return data
    chain: list[Augmentation] = [row(AUGMENTATIONS, one.type)(settings_named(one), data) for one in settings]

    def batch_of_epoch(samples_B: NDArray[np.int64], epochs_B: NDArray[np.int64], seed: int) -> Batch:
        if data.batch_of_epoch is None:
            batch = data.train_batch(samples_B)
        else:
            batch = data.batch_of_epoch(samples_B, epochs_B, seed)
        for place, augmentation in enumerate(chain):
            batch = augmentation(batch, Draws.of(seed, epochs_B, samples_B, place))
        return batch

    notes = (f"training samples are augmented by {_told(one)}" for one in settings)
    return replace(data, batch_of_epoch=batch_of_epoch, notes=(*data.notes, *notes))


def identity_of(settings: Sequence[Settings]) -> list[dict[str, Any]]:
    """Word and settings of each, with their defaults, as JSON."""
    return [{"type": one.type, **_plain(one)} for one in settings]


def _plain(one: Settings) -> dict[str, Any]:
    named = settings_named(one)
    return {} if named is None else named.to_plain()


def _told(one: Settings) -> str:
    words = [
        f"{key} {f'({len(value)} of them)' if isinstance(value, list) else value}" for key, value in _plain(one).items()
    ]
    return f"{one.type}: {', '.join(words)}" if words else one.type
