"""Quantities of resources in the bounds of a usage record: few names, each of a length, and figures of a length.

What a pod asks for is for others to say: a webhook may add twenty devices to it, a node may tell of names that nobody
knows. Whoever writes quantities down for a record, or puts two sets of them together, does it by `bounded`.
"""

from collections.abc import Collection, Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

from costopt.accounting.coarsen import OTHER
from costopt.accounting.exact import plain, total
from costopt.schema.base import decimal
from costopt.schema.resources import CONTAINER_RESOURCES, GPU_RESOURCE
from costopt.schema.usage import MAX_RESOURCES

Quantities = tuple[tuple[str, str], ...]
"""By resource, in base units, as plain numbers, in the order of names."""

LONGEST_NAME = 256
LONGEST_FIGURE = 32
FIRST = (*CONTAINER_RESOURCES, GPU_RESOURCE)
"""Resources that are never put together with others."""


class Bounded(NamedTuple):
    """As much as a record can say."""

    quantities: Quantities
    merged: bool
    """There are more resources than are told apart; the others are counted as one, `OTHER`."""


def bounded(held: Mapping[str, Decimal], known: Collection[str] = ()) -> Bounded:
    """The quantities, at most so many as a record has room for, with figures rounded up where they are too long.

    `known` are names that the same record tells of already: those stay apart first, and so few others besides that all
    its names, and a price of each, still find room in it.
    """
    names = sorted(held, key=lambda name: (name not in FIRST, name not in known, name))
    room = MAX_RESOURCES - len({*known} - {OTHER})
    told: list[str] = []
    for name in names:
        if name not in FIRST and name not in known:
            if room <= 0:
                continue
            room -= 1
        if 0 < len(name) <= LONGEST_NAME:
            told.append(name)
    if len(told) < len(names) or len(told) > MAX_RESOURCES:
        told = [name for name in told if name != OTHER][: MAX_RESOURCES - 1]
    others = total(amount for name, amount in held.items() if name not in told)
    kept = {name: held[name] for name in told} | ({OTHER: others} if others else {})
    return Bounded(tuple((name, _figure(kept[name])) for name in sorted(kept)), merged=bool(others))


def largest(sets: Iterable[Quantities]) -> Bounded:
    """Of each resource the most that any of the sets has."""
    found: dict[str, Decimal] = {}
    for quantities in sets:
        for name, quantity in quantities:
            found[name] = max(found.get(name, Decimal(0)), decimal(quantity))
    return bounded(found)


def _figure(amount: Decimal) -> str:
    text = plain(amount)
    if len(text) <= LONGEST_FIGURE:
        return text
    return plain(min(amount.to_integral_value(ROUND_CEILING), Decimal(10) ** (LONGEST_FIGURE - 1)))
