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
    its names, and a price of each, still find room in it. What is so bounded stays as it is when it is bounded again,
    also with its own names among those that are known.
    """
    names = [name for name in held if 0 < len(name) <= LONGEST_NAME and name != OTHER]
    told = [name for name in names if name in FIRST or name in known]
    news = [name for name in names if name not in FIRST and name not in known]
    room = MAX_RESOURCES - len(apart(known))
    told = [*sorted(told, key=lambda name: (name not in FIRST, name)), *sorted(news)[: max(0, room)]]
    if len(told) < len(held) or len(told) > MAX_RESOURCES:
        told = told[: MAX_RESOURCES - 1]
    others = total(amount for name, amount in held.items() if name not in told)
    kept = {name: held[name] for name in told} | ({OTHER: others} if others else {})
    merged = any(amount and name not in kept for name, amount in held.items())
    return Bounded(tuple((name, _figure(kept[name])) for name in sorted(kept)), merged)


def apart(names: Collection[str]) -> set[str]:
    """Those of the names that take up the room of a record: all that are told apart."""
    return {*names} - {OTHER}


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
