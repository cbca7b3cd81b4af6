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


class Alike(NamedTuple):
    """Replicas that a bill tells apart in nothing: what one of them held, so many times."""

    record: UsageRecord
    """That of any of them."""
    replicas: int = 1


class _Kind(NamedTuple):
    """What records of the same quantities and prices have in common: their time is added up before it is multiplied."""

    stage: str
    resources: tuple[tuple[str, str], ...]
    product: str | None
    capacity_type: CapacityType
    day: str | None
    currency: str | None
    prices: tuple[PinnedPrice, ...]

    @classmethod
    def of(cls, record: UsageRecord) -> Self:
        is_pinned = record.prices is not None
        return cls(
            stage=record.stage,
            resources=tuple(record.resources.items()),
            product=record.product,
            capacity_type=record.capacity_type,
            day=None if is_pinned else record.held_from.astimezone(UTC).date().isoformat(),
            currency=record.currency if is_pinned else None,
            prices=tuple(price for price in record.prices or () if price.list_unit_price is not None),
        )


def count(records: Iterable[Alike], folded: Iterable[FoldedUsage] = ()) -> Cells:
    """All of it in cells. A replica must be counted by `records` once."""
    cells: defaultdict[Cell, Decimal] = defaultdict(Decimal)
    for sum_ in folded:
        _add(cells, Cell.of(sum_), decimal(sum_.quantity_microseconds))
    microseconds: defaultdict[tuple[_Kind, Cause], int] = defaultdict(int)
    for record, replicas in records:
        kind = _Kind.of(record)
        for cause, part in split_by_cause(record).items():
            microseconds[kind, cause] += part * replicas
    for (kind, cause), length in microseconds.items():
        _multiply(kind, cause, length, cells)
    return cells


def _multiply(kind: _Kind, cause: Cause, microseconds: int, cells: defaultdict[Cell, Decimal]) -> None:
    pinned = {price.resource: price for price in kind.prices}
    for resource, quantity in kind.resources:
        if not decimal(quantity):
            continue
        cell = Cell(
            stage=kind.stage,
            resource=resource,
            cause=cause,
            product=kind.product,
            capacity_type=kind.capacity_type,
            day=kind.day,
            currency=kind.currency,
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
