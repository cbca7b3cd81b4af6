"""What was paid for and is of no use: steps that were lost, starts that were needed again, waiting, rejected variants.

wasted    rows of it, with hours, money and why
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from costopt.accounting.exact import total
from costopt.schema.status import BillLine, JobStatus, StageStatus
from costopt.schema.usage import Cause

WASTED: dict[Cause, str] = {
    "LostProgress": "Steps that no checkpoint held when an attempt ended: they were, or must be, taken again.",
    "Recovery": "Starts of attempts after the first, and of ranks that were started anew in place.",
    "DataWait": "Steps that waited for samples.",
    "Other": "Time that no meter explains: images that were pulled, ends that were waited for.",
}
"""Cause -> what it means. Startup, Selecting and Checkpoint are not among them: they are the price of a training."""


CAUSE_WORDS: dict[Cause, str] = {
    "Startup": "start-up",
    "Selecting": "selecting",
    "Productive": "productive",
    "DataWait": "data wait",
    "Checkpoint": "checkpoints",
    "LostProgress": "lost progress",
    "Recovery": "recovery",
    "Other": "other",
}
"""How people are told of a cause."""


@dataclass(frozen=True)
class Wasted:
    """One row."""

    what: str
    hours: Decimal
    """Hours of `main_resource`."""
    cost: Decimal | None
    """None: one of its lines has no price."""
    why: str


def wasted(status: JobStatus, main_resource: str) -> list[Wasted]:
    """The rows, the dearest first; without those of no hours. No line of the bill is counted twice."""
    lines = status.bill.lines if status.bill else []
    rejected = {report.name: report for report in status.variants if report.verdict == "Rejected"}
    rows = []
    for cause, meaning in WASTED.items():
        of_cause = [line for line in lines if line.cause == cause and line.stage not in rejected]
        why = _losses(status.stages) if cause in ("LostProgress", "Recovery") else ""
        rows.append(_row(CAUSE_WORDS[cause], of_cause, main_resource, f"{meaning} {why}".rstrip()))
    for name, report in rejected.items():
        reasons = "; ".join(fault.message for fault in report.faults) or "it was rejected"
        of_stage = [line for line in lines if line.stage == name]
        rows.append(_row(f"variant {name}", of_stage, main_resource, f"Rejected: {reasons}."))
    found = [row for row in rows if row is not None]
    return sorted(found, key=lambda row: (row.cost or Decimal(0), row.hours), reverse=True)


def _row(what: str, lines: Sequence[BillLine], main_resource: str, why: str) -> Wasted | None:
    if not lines:
        return None
    hours = total(Decimal(line.consumed_quantity) for line in lines if line.resource == main_resource)
    return Wasted(what, hours, cost_of(lines), why)


def cost_of(lines: Iterable[BillLine]) -> Decimal | None:
    """What the lines cost together; None if one has no price."""
    costs = [line.list_cost for line in lines]
    return None if None in costs else total(Decimal(cost) for cost in costs if cost is not None)


def _losses(stages: Iterable[StageStatus]) -> str:
    """How often attempts were lost, by stage."""
    told = []
    for stage in stages:
        counts = (
            (stage.failures, "failed", f" ({_reasons(stage)})" if stage.failures_by_reason else ""),
            (stage.disruptions, "lost to the platform", ""),
            (stage.in_place_restarts, "started anew in place", ""),
        )
        parts = [f"{count} {what}{more}" for count, what, more in counts if count]
        told += [f"{stage.name}: {', '.join(parts)}"] if parts else []
    return f"Attempts of {'; '.join(told)}." if told else ""


def _reasons(stage: StageStatus) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(stage.failures_by_reason.items()))
