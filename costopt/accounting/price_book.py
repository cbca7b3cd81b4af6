"""Which price holds for a resource on a day, and the prices of a record written down for good."""

from datetime import UTC, date

from costopt.schema.base import decimal
from costopt.schema.prices import Price, PriceBook
from costopt.schema.usage import CapacityType, PinnedPrice, UsageRecord


def find_price(
    book: PriceBook, *, resource: str, product: str | None, capacity_type: CapacityType, day: date
) -> Price | None:
    """The price of `resource` on `day` (UTC); None when the book has none, which is not the same as 0.

    Only rows of exactly this capacity type count: what spot capacity costs is not known from the on-demand price. A row
    for the device model goes before a row for any model, however old; then the latest day that has come applies.
    """
    rows = [
        price
        for price in book.spec.prices
        if price.resource == resource
        and price.capacity_type == capacity_type
        and price.product in ("", product)
        and price.effective_date <= day
    ]
    return max(rows, key=lambda price: (price.product != "", price.effective_date), default=None)


def pinned(price: Price) -> PinnedPrice:
    """A row of the price book as a record keeps it."""
    return PinnedPrice(
        resource=price.resource,
        list_unit_price=price.list_unit_price,
        product=price.product,
        effective_from=price.effective_from,
        source=price.source,
    )


def pin_prices(record: UsageRecord, book: PriceBook | None) -> UsageRecord:
    """The record with the prices that apply to it, so that later changes of the book do not change its cost.

    Without a book nothing is pinned: the record is priced once there is one. One that is pinned stays as it is.
    """
    if book is None or record.prices is not None:
        return record
    day = record.held_from.astimezone(UTC).date()
    prices = []
    for resource, quantity in record.resources.items():
        if not decimal(quantity):
            continue
        price = find_price(book, resource=resource, product=record.product, capacity_type=record.capacity_type, day=day)
        prices.append(pinned(price) if price else PinnedPrice(resource=resource))
    return record.model_copy(update={"currency": book.spec.currency, "prices": prices})
