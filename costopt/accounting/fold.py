"""Records folded into sums, so that a job of thousands of replicas still has a status that fits into its object.

The bill does not change by a digit. What is lost is which replica it was: a folded record cannot be told from a new one
of the same replica, so only that of a replica which is gone for good may be folded. Sums that become too many are made
coarser (see `coarsen`), and the usage says so; recording goes on for ever.
"""

from collections.abc import Collection
from typing import get_args

from costopt.accounting.cells import Alike, Cell, count
from costopt.accounting.coarsen import coarsen
from costopt.accounting.intervals import held_of
from costopt.schema.usage import Coarsened, Usage, UsageRecord

MOST_SUMS = 600
"""Sums kept, of about 300 bytes each. Training that runs for a year at prices that change every month needs fewer."""


def fold(usage: Usage, uids: Collection[str], *, dated: bool = True) -> Usage:
    """The usage with the records of `uids` in its sums; ids without a record are passed over.

    Not `dated`: the job names no price book, so that nobody will ask on which days it held what has no price. Folding
    in several steps, in any order, gives the same usage as folding at once, as long as nothing has to be made coarser.
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
            "coarsened": in_order({*usage.coarsened, *coarsened}),
        }
    )


def is_estimated(record: UsageRecord) -> bool:
    """Nobody saw its end, its clocks disagree, or a quantity could not be read."""
    return record.end_estimated or record.resources_estimated or held_of(record).clock_fault


def in_order(coarsened: Collection[Coarsened]) -> list[Coarsened]:
    """Each once, in a fixed order."""
    return [what for what in get_args(Coarsened) if what in coarsened]


def _order(cell: Cell) -> tuple[str, ...]:
    price = cell.price.model_dump_json() if cell.price else ""
    return (*(str(part or "") for part in cell[:-1]), price)
