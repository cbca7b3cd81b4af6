"""Which price holds for a resource on a day."""

from datetime import date

from costopt.accounting.usage import CapacityType
from costopt.schema.prices import Price, PriceBook


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
