"""Records counted into cells: the finest things that are told apart, with their time to the last microsecond.

A record's held time is split by cause and multiplied by each quantity it held. What a record leaves behind in the cells
is all that the bill needs of it, so that folded records and whole ones make the same bill.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC
from decimal import Decimal
from typing import NamedTuple, Self

from costopt.accounting.exact import multiply, plain, total
from costopt.accounting.goodput import split_by_cause
from costopt.schema.base import decimal
from costopt.schema.usage import CapacityType, Cause, FoldedUsage, PinnedPrice, UsageRecord

Cells = Mapping["Cell", Decimal]
"""Quantity in base units times microseconds, by cell."""


class Cell(NamedTuple):
    """What usage is told apart by, before it is priced."""

    stage: str
    resource: str
    cause: Cause
    product: str | None
    capacity_type: CapacityType
    day: str | None
    """Day (UTC) whose price applies. None: the price is pinned."""
    currency: str | None
    """Currency of the pinned price."""
    price: PinnedPrice | None
    """The pinned price; None also when it was pinned that there is none."""

    @classmethod
    def of(cls, folded: FoldedUsage) -> Self:
        """The cell that was folded."""
        return cls(*(getattr(folded, field) for field in cls._fields))

    def fold(self, quantity_microseconds: Decimal) -> FoldedUsage:
        """The cell as the status keeps it."""
        return FoldedUsage(**self._asdict(), quantity_microseconds=plain(quantity_microseconds))


def count(records: Iterable[UsageRecord], folded: Iterable[FoldedUsage] = ()) -> Cells:
    """All of it in cells. A record must be among `records` once."""
    cells: defaultdict[Cell, Decimal] = defaultdict(Decimal)
    for sum_ in folded:
        _add(cells, Cell.of(sum_), decimal(sum_.quantity_microseconds))
    for record in records:
        _count(record, cells)
    return cells


def _count(record: UsageRecord, cells: defaultdict[Cell, Decimal]) -> None:
    is_pinned = record.prices is not None
    pinned = {price.resource: price for price in record.prices or () if price.list_unit_price is not None}
    day = None if is_pinned else record.held_from.astimezone(UTC).date().isoformat()
    currency = record.currency if is_pinned else None
    microseconds_by_cause = split_by_cause(record)
    for resource, quantity in record.resources.items():
        if not decimal(quantity):
            continue
        for cause, microseconds in microseconds_by_cause.items():
            cell = Cell(
                stage=record.stage,
                resource=resource,
                cause=cause,
                product=record.product,
                capacity_type=record.capacity_type,
                day=day,
                currency=currency,
                price=pinned.get(resource),
            )
            _add(cells, cell, multiply(decimal(quantity), Decimal(microseconds)))


def _add(cells: defaultdict[Cell, Decimal], cell: Cell, part: Decimal) -> None:
    cells[cell] = total((cells[cell], part))


def once_per_replica(records: Iterable[UsageRecord]) -> list[UsageRecord]:
    """Each replica's record once; that of its end goes before one of the same replica still running.

    Raises ValueError when two records say different things about one replica.
    """
    by_uid: dict[str, UsageRecord] = {}
    for record in records:
        known = by_uid.get(record.uid)
        if known is None or known.outcome == "Running" != record.outcome:
            by_uid[record.uid] = record
        elif known != record and (record.outcome == "Running") == (known.outcome == "Running"):
            raise ValueError(f"usage of {record.uid} must be given once; two records of it differ")
    return list(by_uid.values())
