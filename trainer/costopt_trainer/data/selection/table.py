"""What chooses samples, and the table of that.

CHOOSERS     a word of data.selection.type -> what chooses
kept         the samples to keep, from the cache or chosen now
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from costopt.schema.selection import Selection
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.selection.numbers import open_numbers
from costopt_trainer.data.selection.samples import Samples
from costopt_trainer.tables import row

FORMAT_VERSION = 1
"""Part of the key: raise it if the same samples and settings give other numbers."""


class Chooser(Protocol):
    """Chooses samples: a pure function of the samples, their seed and the settings."""

    def __call__(self, samples: Samples, settings: Selection, count: int) -> NDArray[np.int64]:
        """The numbers of `count` training samples, each once, in any order. 1 <= count < all."""


CHOOSERS: dict[str, str] = {
    "Random": "costopt_trainer.data.selection.table:random",
    "Stratified": "costopt_trainer.data.selection.stratified:stratified",
    "Loss": "costopt_trainer.data.selection.by_loss:by_loss",
    "Representative": "costopt_trainer.data.selection.representative:representative",
}


def kept(samples: Samples, settings: Selection, reference: str, cache_dir: Path) -> NDArray[np.int64]:
    """The numbers of the samples to keep, int64, in ascending order. `reference` is the digest of the reference model.

    Raises NotRetryable("InvalidData") if the cache cannot be written.
    """
    count = samples.count * settings.keep_percent // 100
    chooser: Chooser = row(CHOOSERS, settings.type)
    return open_numbers(
        key_of(samples, {"selection": settings.to_plain(), "reference": reference}),
        lambda: np.sort(chooser(samples, settings, count)),
        cache_dir,
        num_samples=samples.count,
    )


def key_of(samples: Samples, settings: dict[str, Any]) -> str:
    """The key of a table that follows from these samples and settings, 64 hexadecimal digits."""
    parts = {"format": FORMAT_VERSION, "data": samples.data.fingerprint, "seed": samples.seed, **settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def random(samples: Samples, _settings: Selection, count: int) -> NDArray[np.int64]:
    """Any samples: the first of an order that the seed shuffles."""
    return sample_indices(seed=samples.seed, position=0, count=count, num_samples=samples.count)
