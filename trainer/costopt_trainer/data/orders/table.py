"""The orders in which samples that are sorted once may come.

ORDERS     a word of data.order.type -> its plan, made of the settings
Plan       by what the samples are sorted, and how they then come
sorted_by  all samples by their lengths or losses
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from costopt.schema.selection import Order, Reference
from costopt.schema.unions import settings_named
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.training_data import SampleOrder
from costopt_trainer.tables import row


@dataclass(frozen=True)
class Plan:
    """By what the samples are sorted, and how they then come."""

    word: str
    """Of data.order.type."""
    name: str
    """Tells it from other orders of samples that are sorted in the same way."""
    order: Callable[[NDArray[np.int64], int], SampleOrder]
    """The numbers of all samples, easiest (or shortest) first, int64 (N,), and the samples of a step over all ranks."""
    by: Literal["Length", "Loss"]
    reference: Reference = field(default_factory=Reference)
    """What tells the loss."""
    trims: bool = False
    """Whether each batch is as long as its longest document."""


ORDERS: dict[str, str] = {
    "LengthBucketed": "costopt_trainer.data.orders.length_buckets:planned",
    "Curriculum": "costopt_trainer.data.orders.curriculum:planned",
}
"""Shuffled has no row: so samples come where nothing is planned."""


def sorted_by(figures_N: NDArray[Any]) -> NDArray[np.int64]:
    """The numbers of all samples, the one with the least figure first, int64 (N,).

    Equal ones come in an order of their own, the same each time. By their numbers, documents that fill the context
    would come class by class from files that are sorted so.
    """
    shuffled_N = sample_indices(seed=0, position=0, count=len(figures_N), num_samples=len(figures_N))
    return shuffled_N[np.argsort(figures_N[shuffled_N], kind="stable")]


def plan_of(settings: Order | None) -> Plan | None:
    """How samples come; None: shuffled."""
    if settings is None or settings.type not in ORDERS:
        return None
    plan: Plan = row(ORDERS, settings.type)(settings_named(settings))
    return plan
