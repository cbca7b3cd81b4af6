"""Folds records into sums, so that the status of a job with thousands of replicas still fits into its object.

The bill does not change by a digit. The replica's identity is lost: a folded record cannot be distinguished from a new
one of the same replica, so only records of replicas that are gone for good may be folded. Too many sums are made
coarser (see `coarsen`), and the usage says so; recording never stops.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import get_args

from costopt.accounting.cells import Alike, Cell, count
from costopt.accounting.coarsen import coarsen
from costopt.accounting.intervals import held_of
from costopt.schema.usage import MAX_FOLDED_UNTIL, Coarsened, FoldedUntil, Usage, UsageRecord

MOST_SUMS = 600
"""Sums kept, of about 300 bytes each. A year of training at prices that change every month needs fewer."""


ATTEMPTS_TOLD = 8
"""Attempts of a stage for which `folded_until` is kept."""


def fold(usage: Usage, uids: Collection[str], *, dated: bool = True) -> Usage:
    """The usage with the records of `uids` in its sums; ids without a record are skipped.

    Not `dated`: the job names no price book, so the days of unpriced usage are never needed. Folding in several steps,
    in any order, gives the same usage as folding at once, as long as nothing has to be made coarser.
    """
    chosen = [record for record in usage.records if record.uid in uids and record.outcome != "Running"]
    if not chosen:
        return usage
    cells, coarsened = coarsen(count(map(Alike, chosen), usage.folded, dated=dated), MOST_SUMS)
    leaving = {record.uid for record in chosen}
    return usage.model_copy(
        update={
            "records": [record for record in usage.records if record.uid not in leaving],
            "folded": [cell.fold(cells[cell]) for cell in sorted(cells, key=_order)],
            "folded_records": usage.folded_records + len(chosen),
            "folded_estimated": usage.folded_estimated + sum(is_estimated(record) for record in chosen),
            "folded_until": _folded_until([*usage.folded_until, *map(_end_of, chosen)]),
            "coarsened": in_order({*usage.coarsened, *coarsened}),
        }
    )


def folded_until(usage: Usage, stage: str, attempt: int) -> datetime | None:
    """Time up to which the sums count pods of that attempt; None: they count none. A pod without a record may be
    in the sums or not; counting it from that time on counts nothing twice."""
    ends = {end.attempt: end.until for end in usage.folded_until if end.stage == stage}
    if attempt not in ends and len(ends) == ATTEMPTS_TOLD and attempt < min(ends):
        attempt = min(ends)
    return ends.get(attempt)


def _end_of(record: UsageRecord) -> FoldedUntil:
    return FoldedUntil(stage=record.stage, attempt=record.attempt, until=record.held_until)


def _folded_until(ends: Iterable[FoldedUntil]) -> list[FoldedUntil]:
    """The latest end per attempt, for the last attempts of each stage; the first of them stands for all before."""
    stages: defaultdict[str, dict[int, datetime]] = defaultdict(dict)
    for end in ends:
        attempts = stages[end.stage]
        attempts[end.attempt] = max(end.until, attempts.get(end.attempt, end.until))
    told: list[FoldedUntil] = []
    for stage, attempts in sorted(stages.items()):
        kept = sorted(attempts)[-ATTEMPTS_TOLD:]
        attempts[kept[0]] = max(until for attempt, until in attempts.items() if attempt <= kept[0])
        told += [FoldedUntil(stage=stage, attempt=attempt, until=attempts[attempt]) for attempt in kept]
    return told[:MAX_FOLDED_UNTIL]


def is_estimated(record: UsageRecord) -> bool:
    """Its end was not seen, its clocks disagree, or a quantity could not be read."""
    return record.end_estimated or record.resources_estimated or held_of(record).clock_fault


def in_order(coarsened: Collection[Coarsened]) -> list[Coarsened]:
    """Each once, in a fixed order."""
    return [what for what in get_args(Coarsened) if what in coarsened]


def _order(cell: Cell) -> tuple[str, ...]:
    price = cell.price.model_dump_json() if cell.price else ""
    return (*(str(part or "") for part in cell[:-1]), price)
