"""Records folded into sums, so that a job of thousands of replicas still has a status that fits into its object.

The bill does not change by a digit. What is lost is which replica it was: a folded record cannot be told from a new one
of the same replica, so only that of a replica which is gone for good may be folded.
"""

from collections.abc import Collection

from costopt.accounting.cells import Alike, Cell, count
from costopt.accounting.intervals import held_of
from costopt.schema.usage import MAX_FOLDED, Usage, UsageRecord


def fold(usage: Usage, uids: Collection[str]) -> Usage:
    """The usage with the records of `uids` in its sums; ids without a record are passed over.

    When the sums could not be kept any more (there may be 2,000), the usage stays as it is. Folding in several steps,
    in any order, gives the same usage as folding at once.
    """
    chosen = [record for record in usage.records if record.uid in uids and record.outcome != "Running"]
    if not chosen:
        return usage
    cells = count(map(Alike, chosen), usage.folded)
    if len(cells) > MAX_FOLDED:
        return usage
    leaving = {record.uid for record in chosen}
    return Usage(
        records=[record for record in usage.records if record.uid not in leaving],
        folded=[cell.fold(cells[cell]) for cell in sorted(cells, key=_order)],
        folded_records=usage.folded_records + len(chosen),
        folded_estimated=usage.folded_estimated + sum(is_estimated(record) for record in chosen),
    )


def is_estimated(record: UsageRecord) -> bool:
    """Nobody saw its end, or its clocks disagree."""
    return record.end_estimated or held_of(record).clock_fault


def _order(cell: Cell) -> tuple[str, ...]:
    price = cell.price.model_dump_json() if cell.price else ""
    return (*(str(part or "") for part in cell[:-1]), price)
