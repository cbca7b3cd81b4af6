"""Which price applies to a resource on a day; pins the prices of a record."""

from collections.abc import Sequence
from datetime import UTC, date
from decimal import Decimal
from itertools import pairwise

from costopt.accounting.exact import mean_price
from costopt.accounting.intervals import Steps, held_of, midnight, since
from costopt.schema.base import decimal
from costopt.schema.prices import Price, PriceBook
from costopt.schema.usage import MAX_PRICES, CapacityType, PinnedPrice, UsageRecord

MEAN = "mean of several prices"
"""Source of a price averaged over several."""


class Prices:
    """The prices of one book, each looked up once."""

    def __init__(self, book: PriceBook) -> None:
        self.currency = book.spec.currency
        self._book = book
        self._rows: dict[tuple[str, str | None, CapacityType], list[Price]] = {}
        self._found: dict[tuple[str, str | None, CapacityType, date], PinnedPrice | None] = {}
        self._periods: dict[tuple[str, str | None, CapacityType, date, date], tuple[PinnedPrice, ...]] = {}

    def on(self, resource: str, product: str | None, capacity_type: CapacityType, day: date) -> PinnedPrice | None:
        """The price of `resource` on `day` (UTC); None if the book has none, which is not the same as 0.

        Only rows of exactly this capacity type count: an on-demand price does not say what spot capacity costs. A row
        for the device model takes precedence over one for any model, however old; then the latest `effectiveFrom` up
        to `day` applies.
        """
        key = (resource, product, capacity_type, day)
        if key not in self._found:
            come = [row for row in self._rows_of(resource, product, capacity_type) if row.effective_date <= day]
            row = max(come, key=lambda row: (row.product != "", row.effective_date), default=None)
            self._found[key] = _pinned(row) if row else None
        return self._found[key]

    def during(
        self, resource: str, product: str | None, capacity_type: CapacityType, first: date, last: date
    ) -> tuple[PinnedPrice, ...]:
        """The prices of `resource` from the `first` to the `last` day, in order; they change on a row's first day.

        A price of None: the book had none at first.
        """
        key = (resource, product, capacity_type, first, last)
        if key not in self._periods:
            rows = self._rows_of(resource, product, capacity_type)
            days = (first, *sorted({row.effective_date for row in rows if first < row.effective_date <= last}))
            found: list[PinnedPrice] = []
            for day in days:
                price = self.on(resource, product, capacity_type, day) or PinnedPrice(resource=resource)
                if not found or found[-1] != price:
                    found.append(price)
            self._periods[key] = tuple(found)
        return self._periods[key]

    def _rows_of(self, resource: str, product: str | None, capacity_type: CapacityType) -> list[Price]:
        key = (resource, product, capacity_type)
        if key not in self._rows:
            self._rows[key] = [
                row
                for row in self._book.spec.prices
                if row.resource == resource and row.capacity_type == capacity_type and row.product in ("", product)
            ]
        return self._rows[key]


def _pinned(price: Price) -> PinnedPrice:
    """A price book row as a record keeps it."""
    return PinnedPrice(
        resource=price.resource,
        list_unit_price=price.list_unit_price,
        product=price.product,
        effective_from=price.effective_from,
        source=price.source,
    )


def pin_prices(record: UsageRecord, book: PriceBook | Prices | None) -> UsageRecord:
    """The record with the prices that apply to it, so that later changes of the book do not change its cost.

    Without a book nothing is pinned: the record is priced once there is one. Pinned prices never change.
    """
    if book is None or record.prices is not None:
        return record
    prices = Prices(book) if isinstance(book, PriceBook) else book
    first, last = record.held_from.astimezone(UTC).date(), record.held_until.astimezone(UTC).date()
    found = {
        resource: prices.during(resource, record.product, record.capacity_type, first, max(first, last))
        for resource in resources_of(record)
    }
    most = max(1, MAX_PRICES // max(1, len(found)))
    found = {resource: _at_most(most, periods, record) for resource, periods in found.items()}
    kept = [price for periods in found.values() for price in periods]
    return record.model_copy(update={"currency": prices.currency, "prices": kept})


def resources_of(record: UsageRecord) -> list[str]:
    """The resources that it ever held."""
    quantities = (record.resources, *(resize.resources for resize in record.resizes))
    held = {name: None for each in quantities for name, quantity in each.items() if decimal(quantity)}
    return list(held)


def price_steps(prices: Sequence[PinnedPrice], record: UsageRecord) -> Steps[PinnedPrice | None]:
    """The prices of one resource over the record's time; None where there is no price."""
    values = [price if price.list_unit_price is not None else None for price in prices]
    return [
        (0 if place == 0 else _begin_of(price, record), value)
        for place, (price, value) in enumerate(zip(prices, values, strict=True))
    ]


def _begin_of(price: PinnedPrice, record: UsageRecord) -> int:
    return since(record.held_from, midnight(date.fromisoformat(price.effective_from or "0001-01-01")))


def _at_most(most: int, prices: tuple[PinnedPrice, ...], record: UsageRecord) -> tuple[PinnedPrice, ...]:
    """The prices of one resource; if there are too many, the shortest neighbours become their mean."""
    kept = list(prices)
    while len(kept) > most:
        begins = [begin for begin, _ in price_steps(kept, record)]
        spans = [end - begin for begin, end in pairwise((*begins, held_of(record).microseconds))]
        place = min(range(len(kept) - 1), key=lambda at: (kept[at].list_unit_price is None, spans[at] + spans[at + 1]))
        kept[place : place + 2] = [mean_of(list(zip(kept[place : place + 2], spans[place : place + 2], strict=True)))]
    return tuple(kept)


def mean_of(weighed: Sequence[tuple[PinnedPrice, int | Decimal]]) -> PinnedPrice:
    """The weighted mean of several prices of a resource; those without a price are skipped.

    It is rounded up, so that nothing costs less than before, and applies from the first of their days.
    """
    priced = [(price, weight) for price, weight in weighed if price.list_unit_price is not None]
    if not priced:
        return weighed[0][0]
    if len(weighed) == len(priced) and len({price.list_unit_price for price, _ in priced}) == 1:
        return min((price for price, _ in priced), key=lambda price: price.effective_from or "")
    return PinnedPrice(
        resource=priced[0][0].resource,
        list_unit_price=mean_price([(decimal(price.list_unit_price or "0"), weight) for price, weight in priced]),
        effective_from=min(price.effective_from or "" for price, _ in priced) or None,
        source=MEAN,
    )
