"""Counts records into cells: the finest categories of usage, with their time to the microsecond.

A record's held time is cut wherever something changes: its causes, which follow one another (see `goodput`), the
quantity held, the price, the day. Equal pieces are added up and multiplied by their quantity. The cells hold all that
the bill needs of a record, so folded records and whole ones give the same bill.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from itertools import groupby
from typing import NamedTuple, Self

from costopt.accounting.exact import multiply, total
from costopt.accounting.goodput import cause_steps, split_by_cause
from costopt.accounting.intervals import Steps, held_of, midnight, overlay, since
from costopt.accounting.price_book import Prices, pin_prices, price_steps, resources_of
from costopt.schema.base import decimal, plain
from costopt.schema.usage import CapacityType, Cause, FoldedUsage, PinnedPrice, UsageRecord

Cells = Mapping["Cell", Decimal]
"""Quantity in base units times microseconds, by cell."""


class Cell(NamedTuple):
    """The key of usage before it is priced."""

    stage: str
    resource: str
    cause: Cause
    product: str | None
    capacity_type: CapacityType
    day: str | None
    """Day (UTC) whose price applies. None: the price is pinned, or there can be no price book."""
    currency: str | None
    """Currency of the pinned price."""
    price: PinnedPrice | None
    """The pinned price; None also if "no price" was pinned."""

    @classmethod
    def of(cls, folded: FoldedUsage) -> Self:
        """The cell that was folded."""
        return cls(*(getattr(folded, field) for field in cls._fields))

    def fold(self, quantity_microseconds: Decimal) -> FoldedUsage:
        """The cell as the status keeps it."""
        return FoldedUsage(**self._asdict(), quantity_microseconds=plain(quantity_microseconds))


class Alike(NamedTuple):
    """Replicas that are equal for the bill: the record of one, and their number."""

    record: UsageRecord
    """Of any of them."""
    replicas: int = 1


def count(
    records: Iterable[Alike], folded: Iterable[FoldedUsage] = (), *, dated: bool, prices: Prices | None = None
) -> Cells:
    """All usage in cells. `records` must count each replica once.

    Usage without pinned prices is priced by `prices`. Without those it is split by day if `dated`, because a price
    book created later may have prices for those days.
    """
    cells: defaultdict[Cell, Decimal] = defaultdict(Decimal)
    for sum_ in folded:
        cell = Cell.of(sum_)
        _add(cells, cell if dated or prices else cell._replace(day=None), decimal(sum_.quantity_microseconds))
    microseconds: defaultdict[tuple[Cell, Decimal], int] = defaultdict(int)
    steady: dict[Hashable, Sequence[tuple[Cell, Decimal]] | None] = {}
    by_cause: defaultdict[tuple[Hashable, Cause], int] = defaultdict(int)
    for record, replicas in records:
        kind = _kind(record)
        if kind not in steady:
            steady[kind] = _steady(pin_prices(record, prices), dated=dated)
        if steady[kind] is None:
            for piece, length in _pieces(pin_prices(record, prices), dated=dated):
                microseconds[piece] += length * replicas
        else:
            for cause, length in split_by_cause(record).items():
                by_cause[kind, cause] += length * replicas
    for (kind, cause), length in by_cause.items():
        for cell, quantity in steady[kind] or ():
            microseconds[cell._replace(cause=cause), quantity] += length
    for (cell, quantity), length in microseconds.items():
        _add(cells, cell, multiply(quantity, Decimal(length)))
    return cells


def _kind(record: UsageRecord) -> Hashable:
    """What records of the same quantities, days and prices have in common."""
    prices = tuple(record.prices) if record.prices is not None else None
    days = (record.held_from.date(), record.held_until.date())
    held = (tuple(record.resources.items()), record.product, record.capacity_type)
    return (record.stage, held, len(record.resizes), days, record.currency, prices)


def _steady(record: UsageRecord, *, dated: bool) -> Sequence[tuple[Cell, Decimal]] | None:
    """The cells and quantities of a record in which only the cause changes over time; None for any other.

    Most records are so, and there may be thousands: their time is added up before it is multiplied.
    """
    resources = resources_of(record)
    changes_price = record.prices is not None and len(record.prices) > len({each.resource for each in record.prices})
    changes_day = dated and record.prices is None and record.held_from.date() != record.held_until.date()
    if record.resizes or changes_price or changes_day:
        return None
    day = record.held_from.date().isoformat() if dated and record.prices is None else None
    pinned = {price.resource: price for price in record.prices or () if price.list_unit_price is not None}
    return [
        (_cell(record, resource, "Other", day, pinned.get(resource)), decimal(record.resources[resource]))
        for resource in resources
    ]


def _cell(record: UsageRecord, resource: str, cause: Cause, day: str | None, price: PinnedPrice | None) -> Cell:
    return Cell(
        stage=record.stage,
        resource=resource,
        cause=cause,
        product=record.product,
        capacity_type=record.capacity_type,
        day=day,
        currency=record.currency if record.prices is not None else None,
        price=price,
    )


def _pieces(record: UsageRecord, *, dated: bool) -> Iterator[tuple[tuple[Cell, Decimal], int]]:
    """The record's time, cut wherever something changes: each cell and quantity with its microseconds."""
    length = held_of(record).microseconds
    causes = cause_steps(record)
    if not length:
        return
    days = _day_steps(record) if dated and record.prices is None else [(0, None)]
    pinned = {name: list(each) for name, each in groupby(record.prices or (), key=lambda price: price.resource)}
    for resource in resources_of(record):
        prices = price_steps(pinned[resource], record) if resource in pinned else [(0, None)]
        quantities = _quantity_steps(record, resource)
        for microseconds, (cause, quantity, day, price) in overlay(length, causes, quantities, days, prices):
            if quantity:
                yield (_cell(record, resource, cause, day, price), quantity), microseconds


def _quantity_steps(record: UsageRecord, resource: str) -> Steps[Decimal]:
    at_first = (0, decimal(record.resources.get(resource, "0")))
    changes = sorted(record.resizes, key=lambda resize: resize.since)
    return [
        at_first,
        *((since(record.held_from, each.since), decimal(each.resources.get(resource, "0"))) for each in changes),
    ]


def _day_steps(record: UsageRecord) -> Steps[str | None]:
    first, last = record.held_from.date(), record.held_until.date()
    days = (first + timedelta(days=number) for number in range((last - first).days + 1))
    return [(since(record.held_from, midnight(day)), day.isoformat()) for day in days]


def _add(cells: defaultdict[Cell, Decimal], cell: Cell, part: Decimal) -> None:
    cells[cell] = total((cells[cell], part))


def once_per_replica(records: Iterable[UsageRecord]) -> list[UsageRecord]:
    """One record per replica; its final record takes precedence over one that says it still runs.

    Raises ValueError if two records of one replica contradict each other.
    """
    by_uid: dict[str, UsageRecord] = {}
    for record in records:
        known = by_uid.get(record.uid)
        if known is None or known.outcome == "Running" != record.outcome:
            by_uid[record.uid] = record
        elif known != record and (record.outcome == "Running") == (known.outcome == "Running"):
            raise ValueError(f"usage of {record.uid} must be given once; two records of it differ")
    return list(by_uid.values())
