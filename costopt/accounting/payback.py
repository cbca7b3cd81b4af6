"""When a search for a variant's steps has paid, in money: what was spent, over what a pass saves.

hourly_cost     what a replica with these resources costs an hour, at the prices of a bill
with_payback    a variant's report with what its stage has cost, and the passes that pay for it
cost_told       these in words

    passes = cost of the variant's stage / ((the model's latency - the variant's) * price of its replica's time)

The cost is that of all that the stage held: search, making, start-ups, lost attempts. A pass saves time of a replica
like the one that it was measured in, at the mean price that the bill has of each resource.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from costopt.accounting.exact import mean_price, multiply, total
from costopt.schema.base import decimal, plain
from costopt.schema.prices import pricing_unit
from costopt.schema.status import Bill, BillLine
from costopt.schema.variant_report import Search, VariantStatus

_BYTES_PER_GIB = 2**30
_MICROSECONDS_PER_HOUR = 3_600_000_000
_MOST = 10**15
"""Of a Count."""


def hourly_cost(resources: Mapping[str, Decimal], lines: Sequence[BillLine]) -> Decimal | None:
    """What one replica with `resources` (base units by name) costs an hour; None if a resource has no price in `lines`.

    Of several prices of a resource it is the mean, weighted by its hours, rounded up to twelve decimals.
    """
    amounts = []
    for resource, quantity in resources.items():
        if not quantity:
            continue
        priced = [
            (decimal(line.list_unit_price), decimal(line.consumed_quantity))
            for line in lines
            if line.resource == resource and line.list_unit_price is not None
        ]
        if not priced:
            return None
        units = quantity / _BYTES_PER_GIB if pricing_unit(resource) == "GiB-Hours" else quantity
        amounts.append(multiply(units, decimal(mean_price(priced))))
    return total(amounts)


def with_payback(report: VariantStatus, resources: Mapping[str, Decimal], bill: Bill | None) -> VariantStatus:
    """The report of a variant whose steps were found, with money; the same if any of its time has no price.

    `resources` are those of a replica of its stage, in base units.
    """
    if report.search is None or bill is None:
        return report
    lines = [line for line in bill.lines if line.stage == report.name]
    costs = [line.list_cost for line in lines]
    hourly = hourly_cost(resources, lines)
    if not lines or None in costs or hourly is None:
        return report
    spent = total(decimal(cost) for cost in costs if cost is not None)
    saved = report.baseline.latency_microseconds - report.measured.latency_microseconds
    passes = None
    if saved > 0 and hourly > 0:
        passes = math.ceil(Fraction(spent) / (Fraction(hourly) * saved / _MICROSECONDS_PER_HOUR))
    found = {
        "list_cost": plain(spent),
        "currency": bill.currency,
        "payback_batches_by_cost": None if passes is None else min(passes, _MOST),
    }
    return report.model_copy(update={"search": report.search.model_copy(update=found)})


def cost_told(search: Search) -> str:
    """What finding and making the variant has cost, and after how many passes that has paid."""
    if search.list_cost is None:
        return "what the search cost is not known: not all that its stage used has a price"
    cost = f"search and making cost {search.list_cost} {search.currency or ''}".rstrip()
    passes = search.payback_batches_by_cost
    if passes is None:
        return f"{cost}, which no pass pays back"
    return f"{cost}, paid back in money after {passes:,} passes"
