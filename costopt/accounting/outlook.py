"""What a budget needs to know beside the bill: whether all that is used, or is about to be, has a price today.

A bill prices the past by the prices of then, and what had none then never gets one there. Held against a budget it
counts all the same, at today's price, so that a job that was stopped for a missing price goes on once that is there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from costopt.accounting.exact import multiply, plain, total
from costopt.accounting.price_book import Prices
from costopt.names import TRAIN_STAGE
from costopt.schema.base import decimal
from costopt.schema.job import JobSpec
from costopt.schema.prices import PriceBook
from costopt.schema.status import Bill, JobStatus
from costopt.schema.usage import CapacityType


@dataclass(frozen=True)
class MissingPrice:
    """What has no price."""

    resource: str
    product: str | None = None
    """Device model of the nodes it is used on, if known."""
    capacity_type: CapacityType | None = None
    """Kind of capacity it is used on. None: it is not used yet, and there is no price for any kind."""


@dataclass(frozen=True)
class Outlook:
    """Prices of today, for one job."""

    has_book: bool
    """The price book is there."""
    missing: tuple[MissingPrice, ...] = ()
    """What has no price, in a fixed order: what was used without one first."""
    late_cost: str = "0"
    """What was used without a price, at the prices that it has today."""


def outlook(bill: Bill, book: PriceBook | None, requested: Iterable[str], day: date) -> Outlook:
    """The outlook on `day` (UTC) for what is on the `bill`, and for the resources `requested` by what is to come."""
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
    """Resources that the stages ask for which are not done yet."""
    names = (TRAIN_STAGE, *(variant.name for variant in spec.compress))
    done = {stage.name for stage in status.stages if stage.state in ("Succeeded", "Failed")}
    return {
        resource
        for name in {*names} - done
        for resource, quantity in spec.resources_of(name).effective().items()
        if quantity
    }
