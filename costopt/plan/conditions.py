"""The status' conditions: what is found, and since when.

A condition's transition time changes only when its status does, so that "since when" can be read off it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from costopt.plan.budget import Spending
from costopt.plan.halts import STOPPING, Halt
from costopt.schema.job import JobSpec
from costopt.schema.status import Bill, Condition, ConditionStatus, ConditionType, JobStatus

MESSAGE_LIMIT = 4096

Findings = Mapping[ConditionType, "Finding"]


@dataclass(frozen=True)
class Finding:
    """A condition without its times."""

    status: ConditionStatus
    reason: str
    message: str


NOT_SUSPENDED = Finding("False", "NotSuspended", "the job is not suspended")


def updated(status: JobStatus, findings: Findings, *, generation: int | None, now: datetime) -> list[Condition]:
    """The conditions after `findings`, in their order; one that is not found any more is left out."""
    return [_updated(status.condition(kind), kind, finding, generation, now) for kind, finding in findings.items()]


def _updated(
    before: Condition | None, kind: ConditionType, finding: Finding, generation: int | None, now: datetime
) -> Condition:
    if before is None:
        since = now
    elif before.status == finding.status:
        since = before.last_transition_time
    else:
        since = max(now, before.last_transition_time)  # a clock set back does not reorder history
    return Condition(
        type=kind,
        status=finding.status,
        reason=finding.reason,
        message=finding.message[:MESSAGE_LIMIT],
        last_transition_time=since,
        observed_generation=generation,
    )


def while_stopping(halt: Halt | None) -> dict[ConditionType, Finding]:
    """Gangs are being stopped. The reason Stopping is also the job's memory of it (see `halts`)."""
    if halt is None:
        why = "replicas end; the job goes on after that, for the reason to stop it is gone"
        return {"Succeeded": Finding("Unknown", "Suspending", why), "Suspended": Finding("False", STOPPING, why)}
    why = f"replicas save their work and end: {halt.message}"
    reason = halt.reason if halt.final else "Suspending"
    return {"Succeeded": Finding("Unknown", reason, why), "Suspended": Finding("False", STOPPING, why)}


def while_suspended(halt: Halt | None, lost: str) -> dict[ConditionType, Finding]:
    """Nothing runs. Without a `halt` the job is resumed by the next plan. `lost` says which work was not saved."""
    suspended = (
        Finding("True", halt.reason, halt.message + lost)
        if halt
        else Finding("True", "SuspendRequested", "the reason to stop is gone; the job is about to be resumed")
    )
    return {"Succeeded": Finding("Unknown", "Suspended", "the job is suspended"), "Suspended": suspended}


def stalled_finding(stages: list[str]) -> Finding:
    """Stalled: True while gangs are being ended because they gave no sign of life."""
    if stages:
        return Finding("True", "NoActivity", f"no replica of {', '.join(stages)} gave a sign of life; it is restarted")
    return Finding("False", "Active", "no gang is stalled")


def budget_finding(spending: Spending) -> Finding:
    """BudgetExceeded: Unknown when the cost cannot be known."""
    if spending.verdict == "Exceeded":
        return Finding("True", "BudgetExceeded", spending.message)
    if spending.verdict == "Within":
        return Finding("False", "WithinBudget", spending.message)
    return Finding("Unknown", "PriceUnknown", spending.message)


def priced_finding(spec: JobSpec, bill: Bill | None) -> Finding:
    """Priced: False when hours are counted that have no price."""
    if spec.price_book_name is None:
        return Finding("False", "NoPriceBook", "priceBookName is not set, so hours are counted but have no price")
    if bill is None:
        return Finding("Unknown", "NoBill", "no bill has been made yet")
    if bill.priced_cost is None:
        message = f"the price book {spec.price_book_name} was not found, so hours are counted but have no price"
        return Finding("False", "NoPriceBook", message)
    if bill.unpriced_resources and bill.price_book is None:
        message = f"the price book {spec.price_book_name} is gone, so what was used since then has no price"
        return Finding("False", "NoPriceBook", message)
    if bill.unpriced_resources:
        return Finding(
            "False",
            "PriceUnknown",
            f"the price book {bill.price_book} has no price for {', '.join(bill.unpriced_resources)}",
        )
    return Finding("True", "AllPriced", "every resource used has a price")
