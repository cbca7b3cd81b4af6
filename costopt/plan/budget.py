"""What has been spent of what may be spent."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from costopt.accounting.outlook import MissingPrice, Outlook
from costopt.plan.foreign_text import one_line
from costopt.schema.base import decimal
from costopt.schema.job import JobSpec
from costopt.schema.status import Bill

MOST_TOLD = 3
"""Missing prices that are told by name."""
WORDS_LIMIT = 128


@dataclass(frozen=True)
class Spending:
    """Where the cost stands against the budget."""

    verdict: Literal["Exceeded", "Within", "Unknown"]
    """Unknown: something has no price, and what is priced does not exceed the budget by itself."""
    message: str
    """In one sentence, the same one whatever the cost: a status that tells it need not be written again."""
    allowed: bool = True
    """False: Unknown, and that is reason enough to suspend the job."""


def compare(spec: JobSpec, bill: Bill | None, outlook: Outlook | None = None) -> Spending | None:
    """The cost so far against the budget; None without one. A cost equal to the amount is within it.

    Without an `outlook` nothing is known of prices but what the bill says.
    """
    budget = spec.budget
    if budget is None:
        return None
    if bill is None:
        return Spending("Unknown", f"no bill has been made yet that could be held against {budget.amount}")
    if _spent(bill, outlook) > decimal(budget.amount):
        currency = f" {bill.currency}" if bill.currency else ""
        return Spending("Exceeded", f"more than the budget of {budget.amount}{currency} was spent")
    unknown = _unknown(spec, bill, outlook)
    if unknown:
        message = f"whether the budget of {budget.amount} is exceeded is not known: {unknown}"
        return Spending("Unknown", message, allowed=budget.on_unknown_price == "Continue")
    return Spending("Within", f"the cost is within the budget of {budget.amount}")


def _spent(bill: Bill, outlook: Outlook | None) -> Decimal:
    return decimal(bill.priced_cost or "0") + decimal(outlook.late_cost if outlook else "0")


def _unknown(spec: JobSpec, bill: Bill, outlook: Outlook | None) -> str:
    """What is not known, and what would be right; empty when all that counts has a price."""
    book = spec.price_book_name
    if bill.priced_cost is None or (outlook is not None and not outlook.has_book):
        return f"the price book {book} was not found; create it, or set budget.onUnknownPrice to Continue"
    missing = outlook.missing if outlook else tuple(MissingPrice(name) for name in bill.unpriced_resources)
    if not missing:
        return ""
    told = [_named(price) for price in missing[:MOST_TOLD]]
    if len(missing) > MOST_TOLD:
        told.append(f"{len(missing) - MOST_TOLD} more")
    have, prices = ("have", "prices") if len(missing) > 1 else ("has", "a price")
    right = f"add {prices} to {book}, or set budget.onUnknownPrice to Continue"
    return f"{_listed(told)} {have} no price; {right}"


def _named(price: MissingPrice) -> str:
    """Resource, device model and kind of capacity, as a row of the price book would name them."""
    if price.capacity_type is None:
        return one_line(price.resource, WORDS_LIMIT)
    parts = [*([f"product {price.product}"] if price.product else []), f"capacityType {price.capacity_type}"]
    return one_line(f"{price.resource} ({', '.join(parts)})", WORDS_LIMIT)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
