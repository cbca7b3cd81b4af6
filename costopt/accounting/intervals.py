"""How long something was held, in whole microseconds: the resolution of timestamps, so nothing is rounded."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any, TypeVar

from costopt.schema.usage import UsageRecord

T = TypeVar("T")

MICROSECONDS_PER_HOUR = 3_600_000_000
_MICROSECOND = timedelta(microseconds=1)

Steps = Sequence[tuple[int, T]]
"""A step function of time: each value applies from its microsecond until the next; ordered, first at 0."""


@dataclass(frozen=True)
class Held:
    """A length of time."""

    microseconds: int
    """At least 0."""
    clock_fault: bool
    """True: the end was before the beginning (two clocks, or one set back), so the length counts as 0."""


def held_between(begin: datetime, end: datetime) -> Held:
    """The time from `begin` to `end` (both aware), clamped at 0 when they are in the wrong order."""
    microseconds = (end - begin) // _MICROSECOND
    return Held(max(0, microseconds), clock_fault=microseconds < 0)


def held_of(record: UsageRecord) -> Held:
    """The time that the replica held its resources."""
    return held_between(record.held_from, record.held_until)


def since(begin: datetime, moment: datetime) -> int:
    """Microseconds from `begin` to `moment` (both aware); 0 if that was before it."""
    return max(0, (moment - begin) // _MICROSECOND)


def midnight(day: date) -> datetime:
    """The beginning of a day, in UTC."""
    return datetime.combine(day, time(), tzinfo=UTC)


def overlay(length: int, *steps: Steps[Any]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Pieces of time, which sum to `length`, each with the values that all of `steps` have in it."""
    cuts = sorted({begin for each in steps for begin, _ in each if begin < length})
    begins = [[begin for begin, _ in each] for each in steps]
    for begin, end in pairwise((*cuts, length)):
        values = (each[bisect_right(places, begin) - 1][1] for each, places in zip(steps, begins, strict=True))
        yield end - begin, tuple(values)
