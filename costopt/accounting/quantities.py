"""Quantities of resources within the bounds of a usage record: few names, and names and figures of limited length.

Others decide what a pod requests: a webhook may add twenty devices, a node may report unknown names. All code that
puts quantities into a record, or merges two sets of them, uses `bounded`.
"""

from collections.abc import Collection, Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

from costopt.accounting.coarsen import OTHER
from costopt.accounting.exact import total
from costopt.schema.base import decimal, plain
from costopt.schema.resources import CONTAINER_RESOURCES, GPU_RESOURCE
from costopt.schema.usage import MAX_RESOURCES

Quantities = tuple[tuple[str, str], ...]
"""By resource, in base units, as plain numbers, in the order of names."""

LONGEST_NAME = 256
LONGEST_FIGURE = 32
FIRST = (*CONTAINER_RESOURCES, GPU_RESOURCE)
"""Resources that are never merged with others."""


class Bounded(NamedTuple):
    """As much as a record can hold."""

    quantities: Quantities
    merged: bool
    """There are more resources than are kept apart; the others count as one, `OTHER`."""


def bounded(held: Mapping[str, Decimal], known: Collection[str] = ()) -> Bounded:
    """The quantities, at most as many as a record has room for; figures that are too long are rounded up.

    `known` are names that the same record already has: those are kept apart first, and only so many others that all
    its names, and a price for each, still fit. The function is idempotent: bounding the result again changes nothing,
    even with its own names in `known`.
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
    """The names that take up room in a record: all that are kept apart."""
    return {*names} - {OTHER}


def largest(sets: Iterable[Quantities]) -> Bounded:
    """For each resource the largest quantity in any of the sets."""
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
