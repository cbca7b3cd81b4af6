"""What asks for the whole job to be stopped: its user, its budget, its deadline, its deletion.

A stop takes time: gangs are told to save and end. That it is under way stands in the Suspended condition (False, with
the reason Stopping), so a stop once begun is carried through, even if its reason goes away meanwhile; the attempt it
ended counts as neither failure nor disruption. What comes after follows the spec as it then is: the end, suspension, or
the next execution.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from costopt.plan.actions import StopReason
from costopt.plan.budget import Spending
from costopt.plan.deadlines import deadline_in
from costopt.schema.job import JobSpec
from costopt.schema.status import JobStatus

STOPPING = "Stopping"
"""Reason of the Suspended condition while gangs are being stopped."""


@dataclass(frozen=True)
class Halt:
    """A reason to stop the job."""

    reason: StopReason
    final: bool
    """True: the job fails. False: it is suspended until the reason goes away."""
    message: str
    """In one sentence."""


def is_suspended(status: JobStatus) -> bool:
    """The job is suspended: nothing runs, and nothing will until it is resumed."""
    condition = status.condition("Suspended")
    return condition is not None and condition.status == "True"


def is_stopping(status: JobStatus) -> bool:
    """A stop of the job is under way."""
    condition = status.condition("Suspended")
    return condition is not None and (condition.status, condition.reason) == ("False", STOPPING)


def find_halt(
    spec: JobSpec, status: JobStatus, spending: Spending | None, now: datetime, *, deleting: bool = False
) -> Halt | None:
    """The reason to stop the job that weighs most: one that ends it before one that suspends it.

    A job that is being deleted may stay for as long as somebody's finalizer keeps it.
    """
    left = deadline_in(spec, status, now)
    if left is not None and left <= timedelta(0):
        seconds = spec.active_deadline_seconds
        return Halt("DeadlineExceeded", True, f"active for {seconds} s, as long as activeDeadlineSeconds allows")
    over_budget = _over_budget(spec, status, spending)
    if over_budget and over_budget.final:
        return over_budget
    if spec.suspend:
        return Halt("SuspendRequested", False, "suspend is true")
    if deleting:
        return Halt("DeletionRequested", False, "the job is being deleted")
    return over_budget


def _over_budget(spec: JobSpec, status: JobStatus, spending: Spending | None) -> Halt | None:
    if spec.budget is None or spending is None:
        return None
    exceeded = spending.verdict == "Exceeded"
    condition = status.condition("Suspended")
    held = condition is not None and (condition.status, condition.reason) == ("True", "BudgetExceeded")
    if exceeded or (held and spending.verdict == "Unknown"):
        # Losing sight of the prices is no reason to spend on.
        final = exceeded and spec.budget.on_exceeded == "Fail"
        return Halt("BudgetExceeded", final, spending.message)
    return None if spending.allowed else Halt("PriceUnknown", False, spending.message)
