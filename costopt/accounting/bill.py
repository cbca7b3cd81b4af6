"""Records and prices -> the bill.

Records are counted into cells (see `cells`). A cell gets the price pinned in its record, else the book's price of the
day (UTC) on which the time was held. Cells of the same stage, resource, cause, device model, capacity type and price
row become one line: its hours are rounded once, its cost is exactly those hours times the unit price. Every total is
a sum of lines, so the lines shown add up to the totals shown, to the last digit.

All money is in one currency: the book's, or without a book that of the pinned prices. A price pinned in another
currency (the book was deleted and created again) does not count here.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from datetime import date
from decimal import Decimal
from typing import get_args

from costopt.accounting.cells import Alike, Cell, Cells, count, once_per_replica
from costopt.accounting.coarsen import coarsen
from costopt.accounting.exact import HOUR_DECIMALS, hours, multiply, total
from costopt.accounting.fold import in_order, is_estimated
from costopt.accounting.price_book import MEAN, Prices
from costopt.names import TRAIN_STAGE
from costopt.schema.base import decimal, plain
from costopt.schema.prices import PriceBook, pricing_unit
from costopt.schema.status import Bill, BillLine, Total
from costopt.schema.usage import Cause, Coarsened, FoldedUsage, PinnedPrice, Usage, UsageRecord

BASE_PER_UNIT = {"GiB-Hours": 2**30}
"""Base units (see `UsageRecord.resources`) in one counted unit, where that is not 1."""

_CAUSE_ORDER = {cause: place for place, cause in enumerate(get_args(Cause))}


MOST_LINES = 1000
"""Lines of a bill, of about 350 bytes each."""


def make_bill(
    records: Iterable[UsageRecord],
    book: PriceBook | None,
    folded: Iterable[FoldedUsage] = (),
    *,
    folded_estimated: int = 0,
    folded_coarsened: Collection[Coarsened] = (),
    alike: Iterable[Alike] = (),
) -> Bill:
    """The bill of `records`, in any order, and of `folded` ones, of which `folded_estimated` had an estimated end
    and in which `folded_coarsened` was merged. `alike` are further replicas, none of which has a record of its own.

    Hours are counted even without a book. A replica counts once: a record given twice is one record, and its final
    record takes precedence over one that says it still runs. Raises ValueError if two records of one replica
    contradict each other.
    """
    counted = [*map(Alike, once_per_replica(records)), *alike]
    prices = Prices(book) if book else None
    cells = count(counted, folded, dated=False, prices=prices)
    currency = book.spec.currency if book else min((cell.currency for cell in cells if cell.currency), default=None)
    quantities, coarsened = coarsen(_priced(cells, prices, currency), MOST_LINES)
    lines = [_line(cell, quantities[cell]) for cell in sorted(quantities, key=_order)]
    priced = total(_costs(lines))
    complete = all(line.list_cost is not None for line in lines)
    by_cause = sorted(lines, key=lambda line: _CAUSE_ORDER[line.cause])
    has_money = currency is not None
    means: set[Coarsened] = {"Prices"} if any(line.price_source == MEAN for line in lines) else set()
    return Bill(
        currency=currency,
        price_book=book.metadata.name if book else None,
        lines=lines,
        by_stage=_totals(lines, lambda line: line.stage) if has_money else [],
        by_resource=_totals(lines, lambda line: line.resource) if has_money else [],
        by_cause=_totals(by_cause, lambda line: line.cause) if has_money else [],
        list_cost=plain(priced) if has_money and complete else None,
        priced_cost=plain(priced) if has_money else None,
        unpriced_resources=sorted({line.resource for line in lines if line.list_cost is None}),
        estimated_records=folded_estimated + sum(item.replicas for item in counted if is_estimated(item.record)),
        coarsened=in_order({*folded_coarsened, *coarsened, *means}),
    )


def bill_of(usage: Usage, others: Iterable[Alike], book: PriceBook | None) -> Bill:
    """The bill of the replicas recorded in `usage`, and of `others`, which are not: those still running."""
    return make_bill(
        usage.records,
        book,
        usage.folded,
        folded_estimated=usage.folded_estimated,
        folded_coarsened=usage.coarsened,
        alike=others,
    )


def _priced(cells: Cells, prices: Prices | None, currency: str | None) -> Cells:
    """The cells with their prices in that currency, without the fields needed only to find those prices.

    Whether a row of the book is for one device model or for any does not split lines, which name their device model.
    """
    lines: defaultdict[Cell, Decimal] = defaultdict(Decimal)
    for cell, quantity in cells.items():
        price = _price_of(cell, prices, currency)
        if price is not None and price.product:
            price = price.model_copy(update={"product": ""})
        line = cell._replace(day=None, currency=None, price=price)
        lines[line] = total((lines[line], quantity))
    return lines


def _price_of(cell: Cell, prices: Prices | None, currency: str | None) -> PinnedPrice | None:
    if cell.day is None:
        return cell.price if cell.currency == currency else None
    if prices is None:
        return None
    return prices.on(cell.resource, cell.product, cell.capacity_type, date.fromisoformat(cell.day))


def _line(line: Cell, unit_microseconds: Decimal) -> BillLine:
    unit = pricing_unit(line.resource)
    consumed = hours(unit_microseconds, base_per_unit=BASE_PER_UNIT.get(unit, 1))
    price = line.price
    unit_price = decimal(price.list_unit_price) if price and price.list_unit_price is not None else None
    return BillLine(
        stage=line.stage,
        resource=line.resource,
        cause=line.cause,
        product=line.product,
        capacity_type=line.capacity_type,
        consumed_quantity=f"{consumed:.{HOUR_DECIMALS}f}",
        consumed_unit=unit,
        list_unit_price=None if unit_price is None else format(unit_price, "f"),
        list_cost=None if unit_price is None else plain(multiply(consumed, unit_price)),
        price_source=price.source if price else None,
        price_effective_from=price.effective_from if price else None,
    )


def _order(line: Cell) -> tuple[object, ...]:
    price = line.price
    # An edited row gives two prices for the same day and product.
    price_key = (price.effective_from, price.list_unit_price, price.source) if price else ("",) * 3
    training_first = (line.stage != TRAIN_STAGE, line.stage)
    return (*training_first, line.resource, _CAUSE_ORDER[line.cause], line.product or "", line.capacity_type, price_key)


def _costs(lines: Iterable[BillLine]) -> Iterable[Decimal]:
    return (decimal(line.list_cost) for line in lines if line.list_cost is not None)


def _totals(lines: Iterable[BillLine], key_of: Callable[[BillLine], str]) -> list[Total]:
    """Sums by key, in order of first occurrence."""
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
