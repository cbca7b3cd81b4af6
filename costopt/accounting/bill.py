"""Records and prices -> the bill.

Each record's held time is split by cause, multiplied by each quantity it held, and put into the cell of its stage,
resource, cause, device model, capacity type and price row. A cell becomes one line: its hours are rounded once, its
cost is those hours times the unit price, exactly. Every total is a sum of lines, so whoever adds up the lines shown
gets the totals shown, to the last digit.

A record is priced whole at the price of the day (UTC) on which its time began.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC
from decimal import Decimal
from typing import NamedTuple, get_args

from costopt.accounting.exact import HOUR_DECIMALS, hours, multiply, plain, total
from costopt.accounting.goodput import split_by_cause
from costopt.accounting.price_book import find_price
from costopt.accounting.usage import CapacityType, UsageRecord
from costopt.names import TRAIN_STAGE
from costopt.schema.base import decimal
from costopt.schema.prices import Price, PriceBook, pricing_unit
from costopt.schema.status import Bill, BillLine, Cause, Total

BASE_PER_UNIT = {"GiB-Hours": 2**30}
"""Base units (see `UsageRecord.resources`) in one counted unit, where that is not 1."""

_CAUSE_ORDER = {cause: place for place, cause in enumerate(get_args(Cause))}


class _Cell(NamedTuple):
    """The finest thing that is counted: a line of the bill."""

    stage: str
    resource: str
    cause: Cause
    product: str | None
    capacity_type: CapacityType
    price: Price | None


def make_bill(records: Iterable[UsageRecord], book: PriceBook | None) -> Bill:
    """The bill of `records`, in any order, at the list prices of `book`; without a book hours are counted all the same.

    A replica counts once: a record given twice is one record, and the record of its end goes before one of the same
    replica still running. Raises ValueError when two records say different things about one replica.
    """
    counted = _once_per_replica(records)
    cells: defaultdict[_Cell, Decimal] = defaultdict(Decimal)
    for record in counted:
        _count(record, book, cells)
    lines = [_line(cell, quantity) for cell, quantity in sorted(cells.items(), key=lambda item: _order(item[0]))]
    priced = total(_costs(lines))
    complete = all(line.list_cost is not None for line in lines)
    return Bill(
        currency=book.spec.currency if book else None,
        price_book=book.metadata.name if book else None,
        lines=lines,
        by_stage=_totals(lines, lambda line: line.stage) if book else [],
        by_resource=_totals(lines, lambda line: line.resource) if book else [],
        by_cause=_totals(sorted(lines, key=lambda line: _CAUSE_ORDER[line.cause]), lambda line: line.cause)
        if book
        else [],
        list_cost=plain(priced) if book and complete else None,
        priced_cost=plain(priced) if book else None,
        unpriced_resources=sorted({line.resource for line in lines if line.list_cost is None}),
        estimated_records=sum(record.end_estimated or record.held.clock_fault for record in counted),
    )


def _once_per_replica(records: Iterable[UsageRecord]) -> list[UsageRecord]:
    by_uid: dict[str, UsageRecord] = {}
    for record in records:
        known = by_uid.get(record.uid)
        if known is None or known.outcome == "Running" != record.outcome:
            by_uid[record.uid] = record
        elif known != record and (record.outcome == "Running") == (known.outcome == "Running"):
            raise ValueError(f"usage of {record.uid} must be given once; two records of it differ")
    return list(by_uid.values())


def _count(record: UsageRecord, book: PriceBook | None, cells: defaultdict[_Cell, Decimal]) -> None:
    """Add the record's quantities times its microseconds to their cells."""
    day = record.held_from.astimezone(UTC).date()
    microseconds_by_cause = split_by_cause(record)
    for resource, quantity in record.resources.items():
        if not decimal(quantity):
            continue
        price = None
        if book is not None:
            price = find_price(
                book, resource=resource, product=record.product, capacity_type=record.capacity_type, day=day
            )
        for cause, microseconds in microseconds_by_cause.items():
            cell = _Cell(record.stage, resource, cause, record.product, record.capacity_type, price)
            cells[cell] = total((cells[cell], multiply(decimal(quantity), Decimal(microseconds))))


def _line(cell: _Cell, unit_microseconds: Decimal) -> BillLine:
    unit = pricing_unit(cell.resource)
    consumed = hours(unit_microseconds, base_per_unit=BASE_PER_UNIT.get(unit, 1))
    unit_price = decimal(cell.price.list_unit_price) if cell.price else None
    return BillLine(
        stage=cell.stage,
        resource=cell.resource,
        cause=cell.cause,
        product=cell.product,
        capacity_type=cell.capacity_type,
        consumed_quantity=f"{consumed:.{HOUR_DECIMALS}f}",
        consumed_unit=unit,
        list_unit_price=None if unit_price is None else format(unit_price, "f"),
        list_cost=None if unit_price is None else plain(multiply(consumed, unit_price)),
        price_source=cell.price.source if cell.price else None,
        price_effective_from=cell.price.effective_from if cell.price else None,
    )


def _order(cell: _Cell) -> tuple[object, ...]:
    price_key = (cell.price.effective_from, cell.price.product) if cell.price else ("", "")
    training_first = (cell.stage != TRAIN_STAGE, cell.stage)
    return (*training_first, cell.resource, _CAUSE_ORDER[cell.cause], cell.product or "", cell.capacity_type, price_key)


def _costs(lines: Iterable[BillLine]) -> Iterable[Decimal]:
    return (decimal(line.list_cost) for line in lines if line.list_cost is not None)


def _totals(lines: Iterable[BillLine], key_of: Callable[[BillLine], str]) -> list[Total]:
    """Sums by key, in the order in which the keys first come."""
    groups: dict[str, list[BillLine]] = {}
    for line in lines:
        groups.setdefault(key_of(line), []).append(line)
    return [
        Total(
            key=key,
            list_cost=plain(total(_costs(group))) if any(line.list_cost is not None for line in group) else None,
            unpriced_lines=sum(line.list_cost is None for line in group),
        )
        for key, group in groups.items()
    ]
