"""What steps that were not taken would have cost: the steps left, at the pace and the prices of those that were taken.

saved_by    resource-hours and money, an estimate
"""

from collections.abc import Sequence
from decimal import Decimal

from costopt.accounting.exact import HOUR_DECIMALS, multiply, share, total
from costopt.names import TRAIN_STAGE
from costopt.schema.base import decimal, plain
from costopt.schema.status import BillLine, SavedHours
from costopt.schema.usage import Cause

PER_STEP: tuple[Cause, ...] = ("Productive", "DataWait", "Checkpoint")
"""What a step more would have taken more of; a start-up is paid once, whatever is trained."""


def saved_by(lines: Sequence[BillLine], steps_taken: int, steps_saved: int) -> list[SavedHours]:
    """Hours of each resource, in order of first occurrence, that `steps_saved` more would have taken of training, if
    `steps_taken` took what these lines of a bill say. Each line's hours are rounded once, to nine decimals; its cost is
    exactly those hours times its price. Nothing can be said of no steps."""
    if steps_taken <= 0:
        return []
    hours: dict[str, list[tuple[BillLine, Decimal]]] = {}
    for line in lines:
        if line.stage == TRAIN_STAGE and line.cause in PER_STEP:
            quantity = share(decimal(line.consumed_quantity), steps_saved, steps_taken)
            hours.setdefault(line.resource, []).append((line, quantity))
    return [_saved(resource, parts) for resource, parts in hours.items()]


def _saved(resource: str, parts: Sequence[tuple[BillLine, Decimal]]) -> SavedHours:
    costs = [
        multiply(quantity, decimal(line.list_unit_price))
        for line, quantity in parts
        if line.list_unit_price is not None
    ]
    return SavedHours(
        resource=resource,
        quantity=f"{total(quantity for _, quantity in parts):.{HOUR_DECIMALS}f}",
        unit=parts[0][0].consumed_unit,
        list_cost=plain(total(costs)) if len(costs) == len(parts) else None,
    )
