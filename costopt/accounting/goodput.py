"""Splits a record's held time by cause: what the time was spent on, in whole microseconds, without remainder.

The replica's own meter gives most of it. Work that is in no checkpoint when an attempt is lost must be computed again:
LostProgress. The start-up of every attempt but the first is Recovery. Ranks that were started anew in place tell what
was lost before, and their start-up is Recovery too. Time that no meter covers (waiting for an image, ending, a
supervisor's own time) is Other. A variant of which a step trains has a meter of that alone: the rest of its time is
counted as that of a variant without one.

Whoever gives a meter is counted by it, also a program of the user's own. A replica without one never reported. Variants
and programs of the user's own without one work from their beginning, so their time was Productive, or lost with them (a
suspended program is assumed to have saved its work). A recipe's training that never reported never got past its start.
Of a program that was started anew in place, its launcher tells the time that was lost before.
"""

from collections.abc import Iterator
from itertools import accumulate

from costopt.accounting.intervals import Steps, held_of
from costopt.names import TRAIN_STAGE
from costopt.schema.replica import MeteredMilliseconds
from costopt.schema.usage import Cause, UsageRecord


def split_by_cause(record: UsageRecord) -> dict[Cause, int]:
    """Microseconds by cause; causes without time are left out, and the parts sum to the held time exactly.

    A meter that claims more than was held (it has another clock) is cut off at the end of the held time, in the order
    of `_claims`.
    """
    parts: dict[Cause, int] = {}
    for cause, part in _parts(record):
        parts[cause] = parts.get(cause, 0) + part
    return parts


def cause_steps(record: UsageRecord) -> Steps[Cause]:
    """The meter's causes placed one after another along the held time, so that a change meanwhile falls into one.

    The meter says how much time each cause took, not when: start-up comes first, the others follow in the order of
    `_claims`.
    """
    parts = list(_parts(record))
    begins = accumulate((part for _, part in parts), initial=0)
    return [(begin, cause) for begin, (cause, _) in zip(begins, parts, strict=False)]


def _parts(record: UsageRecord) -> Iterator[tuple[Cause, int]]:
    left = held_of(record).microseconds
    for cause, milliseconds in _claims(record):
        part = left if milliseconds is None else min(left, milliseconds * 1000)
        if part:
            yield cause, part
            left -= part


def _claims(record: UsageRecord) -> Iterator[tuple[Cause, int | None]]:
    """What each cause claims, in milliseconds; None claims all that is left."""
    if record.metered is None:
        yield _cause_without_a_meter(record), None
        return
    meter: MeteredMilliseconds = record.metered
    yield _startup(record), meter.startup
    yield "Selecting", meter.selecting
    yield "Recovery", meter.recovery
    yield "Productive", meter.productive
    yield "DataWait", meter.data_wait
    yield "Checkpoint", meter.checkpoint
    yield "LostProgress", meter.lost
    yield "Productive" if record.outcome in ("Succeeded", "Running") else "LostProgress", meter.since_checkpoint
    told = (meter.startup, meter.selecting, meter.productive, meter.data_wait, meter.checkpoint, meter.since_checkpoint)
    tells_of_itself = record.stage == TRAIN_STAGE and (record.has_meter or any(told))
    yield "Other" if tells_of_itself else _cause_without_a_meter(record), None


def _startup(record: UsageRecord) -> Cause:
    return "Startup" if record.attempt == 0 else "Recovery"


def _cause_without_a_meter(record: UsageRecord) -> Cause:
    if record.outcome == "Succeeded":
        return "Productive"
    if record.stage == TRAIN_STAGE and record.has_meter:
        return _startup(record)
    kept = record.outcome == "Running" or (record.outcome == "Suspended" and not record.has_meter)
    return "Productive" if kept else "LostProgress"
