"""What a budget needs besides the bill: whether everything used now or soon has a price today.

A bill prices past usage at the prices of that time, and usage without a price then never gets one there. For a budget
it counts at today's price, so that a job stopped for a missing price goes on once that price exists.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from costopt.accounting.exact import multiply, total
from costopt.accounting.price_book import Prices
from costopt.schema.base import decimal, plain
from costopt.schema.job import JobSpec
from costopt.schema.prices import PriceBook
from costopt.schema.status import Bill, JobStatus
from costopt.schema.usage import CapacityType


@dataclass(frozen=True)
class MissingPrice:
    """What has no price."""

    resource: str
    product: str | None = None
    """Device model of its nodes, if known."""
    capacity_type: CapacityType | None = None
    """Capacity type it is used on. None: it is not used yet, and no capacity type has a price."""


@dataclass(frozen=True)
class Outlook:
    """Prices of today, for one job."""

    has_book: bool
    """The price book exists."""
    missing: tuple[MissingPrice, ...] = ()
    """What has no price, in a fixed order: already used resources first."""
    late_cost: str = "0"
    """Cost of usage without a price, at today's prices."""


def outlook(bill: Bill, book: PriceBook | None, requested: Iterable[str], day: date) -> Outlook:
    """The outlook on `day` (UTC) for usage on the `bill` and for the resources `requested` by later stages."""
    if book is None:
        return Outlook(has_book=False)
    prices = Prices(book)
    missing: list[MissingPrice] = []
    late: list[Decimal] = []
    for line in bill.lines:
        if line.list_cost is not None:
            continue
        used = MissingPrice(line.resource, line.product, line.capacity_type)
        price = prices.on(used.resource, used.product, line.capacity_type, day)
        if price is not None and price.list_unit_price is not None:
            late.append(multiply(decimal(line.consumed_quantity), decimal(price.list_unit_price)))
        elif used not in missing:
            missing.append(used)
    known = {price.resource for price in book.spec.prices if price.effective_date <= day}
    told = {used.resource for used in missing}
    missing += [MissingPrice(resource) for resource in sorted(set(requested) - known - told)]
    return Outlook(True, tuple(missing), plain(total(late)))


def still_requested(spec: JobSpec, status: JobStatus) -> set[str]:
    """Resources requested by stages that are not done."""
    done = {stage.name for stage in status.stages if stage.state in ("Succeeded", "Failed")}
    return {
        resource
        for name in {*spec.stages} - done
        for resource, quantity in spec.resources_of(name).effective().items()
        if quantity
    }
