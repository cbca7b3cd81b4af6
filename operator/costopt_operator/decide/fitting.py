"""Shrinks a status until it fits into its object. Pure.

etcd stores objects of up to 1.5 MiB, and a job whose status is refused is a job without limits. Each part of a status
is bounded, but the sum of the bounds is too large. So the status is measured. If it does not fit, parts are left out,
the least important first, and only as many as needed. Parts that decisions depend on, and those needed to compute the
bill again (usage), always stay.
"""

from collections.abc import Callable, Mapping
from typing import Any

from costopt.accounting.exact import HOUR_DECIMALS, total
from costopt.schema.base import decimal, plain
from costopt.schema.status import Bill, BillLine, Failure, JobStatus
from costopt.schema.usage import Cause
from costopt_operator.decide.objects import stored_bytes

FEW_LINES = 5
"""Log lines of the last failure kept at first."""
SHORT = 300
"""Characters kept of a message."""
A_THING = 2_000
"""Upper bound on the bytes of a usage record, sum, bill line, stage or variant, except in made-up cases."""
A_CHARACTER = 12
"""Upper bound on the bytes of one character in JSON."""


def fitted(status: JobStatus, room: int) -> JobStatus:
    """The status in at most `room` bytes, or the smallest possible one if even that is larger."""
    if _at_most(status) <= room:
        return status  # the usual case: no need to measure it
    for step in _STEPS:
        if stored_bytes(status.to_plain()) <= room:
            break
        status = step(status)
    return status


def _at_most(status: JobStatus) -> int:
    """Upper bound on the bytes of the status, from its counts of things and characters."""
    usage, bill = status.usage, status.bill
    stopped = status.early_stopped
    things = (
        20
        + (len(stopped.hours_saved) if stopped else 0)
        + len(status.stages)
        + sum(1 if report.search is None else 2 for report in status.variants)
        + (len(bill.lines) if bill else 0)
    )
    if usage is not None:
        things += len(usage.folded) + len(usage.meters) + sum(1 + len(group.resizes) for group in usage.held)
        things += sum(2 + len(record.prices or ()) // 4 + len(record.resizes) for record in usage.records)
    failures = [stage.failure for stage in status.stages if stage.failure] + (
        [status.failure] if status.failure else []
    )
    words = [item.message for item in status.conditions]
    words += [text for failure in failures for text in (failure.message, *failure.log_tail)]
    runs = [run for group in (usage.held if usage else ()) for run in group.pods]
    return things * A_THING + A_CHARACTER * sum(map(len, words)) + sum(len(run) + len('"",') for run in runs)


def _with_failures(status: JobStatus, change: Callable[[Failure], Failure]) -> JobStatus:
    stages = [
        stage.model_copy(update={"failure": change(stage.failure)}) if stage.failure else stage
        for stage in status.stages
    ]
    return status.model_copy(update={"stages": stages, "failure": change(status.failure) if status.failure else None})


def _tails_of(lines: int) -> Callable[[JobStatus], JobStatus]:
    def step(status: JobStatus) -> JobStatus:
        return _with_failures(
            status, lambda failure: failure.model_copy(update={"log_tail": failure.log_tail[-lines:] if lines else []})
        )

    return step


def _without_phases(status: JobStatus) -> JobStatus:
    return status.model_copy(update={"stages": [stage.model_copy(update={"phase": None}) for stage in status.stages]})


def _short_messages(status: JobStatus) -> JobStatus:
    short = _with_failures(status, lambda failure: failure.model_copy(update={"message": _cut(failure.message)}))
    conditions = [item.model_copy(update={"message": _cut(item.message)}) for item in status.conditions]
    progress = status.progress
    if progress is not None and progress.checkpoints_passed_over is not None:
        passed_over = _cut(progress.checkpoints_passed_over)
        progress = progress.model_copy(update={"checkpoints_passed_over": passed_over, "results": {}})
    return short.model_copy(update={"conditions": conditions, "progress": progress})


def _cut(text: str) -> str:
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _without_node_labels(status: JobStatus) -> JobStatus:
    if status.usage is None:
        return status
    records = [record.model_copy(update={"node_labels": {}}) for record in status.usage.records]
    return status.model_copy(update={"usage": status.usage.model_copy(update={"records": records})})


def _with_bill(change: Callable[[Bill], Mapping[str, Any]]) -> Callable[[JobStatus], JobStatus]:
    def step(status: JobStatus) -> JobStatus:
        if status.bill is None:
            return status
        return status.model_copy(update={"bill": status.bill.model_copy(update=dict(change(status.bill)))})

    return step


def _merged(bill: Bill) -> Mapping[str, Any]:
    """Lines of one thing at one price merged over all causes; the totals still show each cause's share."""
    cause: Cause = "Other"
    groups: dict[BillLine, list[BillLine]] = {}
    for line in bill.lines:
        alike = line.model_copy(update={"cause": cause, "consumed_quantity": "0", "list_cost": None})
        groups.setdefault(alike, []).append(line)
    return {"lines": [_sum(alike, lines) for alike, lines in groups.items()]}


def _sum(alike: BillLine, lines: list[BillLine]) -> BillLine:
    hours = total(decimal(line.consumed_quantity) for line in lines)
    costs = [decimal(line.list_cost) for line in lines if line.list_cost is not None]
    return alike.model_copy(
        update={
            "consumed_quantity": f"{hours:.{HOUR_DECIMALS}f}",
            "list_cost": plain(total(costs)) if len(costs) == len(lines) else None,
        }
    )


_STEPS: tuple[Callable[[JobStatus], JobStatus], ...] = (
    _tails_of(FEW_LINES),
    _tails_of(0),
    _without_phases,
    _short_messages,
    _without_node_labels,
    _with_bill(_merged),
    _with_bill(lambda _bill: {"lines": []}),
)
