"""How long something was held, in whole microseconds: the resolution of a timestamp, so that nothing is rounded."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from costopt.schema.usage import UsageRecord

MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True)
class Held:
    """A length of time."""

    microseconds: int
    """At least 0."""
    clock_fault: bool
    """True: the end lay before the beginning (two clocks, or one set back), so the length counts as 0."""


def held_between(begin: datetime, end: datetime) -> Held:
    """The time from `begin` to `end` (both aware), clamped at 0 when they are in the wrong order."""
    microseconds = (end - begin) // timedelta(microseconds=1)
    return Held(max(0, microseconds), clock_fault=microseconds < 0)


def held_of(record: UsageRecord) -> Held:
    """The time that the replica held its resources."""
    return held_between(record.held_from, record.held_until)
