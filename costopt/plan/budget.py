"""What has been spent of what may be spent."""

from dataclasses import dataclass
from typing import Literal

from costopt.schema.base import decimal
from costopt.schema.job import Budget
from costopt.schema.status import Bill


@dataclass(frozen=True)
class Spending:
    """Where the cost stands against the budget."""

    verdict: Literal["Exceeded", "Within", "Unknown"]
    """Unknown: something has no price, and what is priced does not exceed the budget by itself."""
    message: str
    """In one sentence, the same one whatever the cost: a status that tells it need not be written again."""


def compare(budget: Budget, bill: Bill | None) -> Spending:
    """The cost so far against the budget. A cost equal to the amount is within it."""
    if bill is None or bill.priced_cost is None:
        return Spending("Unknown", f"the cost is not known, so it cannot be held against {budget.amount}")
    if decimal(bill.priced_cost) > decimal(budget.amount):
        currency = f" {bill.currency}" if bill.currency else ""
        return Spending("Exceeded", f"more than the budget of {budget.amount}{currency} was spent")
    if bill.unpriced_resources:
        unpriced = ", ".join(bill.unpriced_resources)
        return Spending(
            "Unknown", f"whether the budget of {budget.amount} is exceeded is not known: {unpriced} have no price"
        )
    return Spending("Within", f"the cost is within the budget of {budget.amount}")
