"""Two statuses -> the changes between them that a person wants to know, as Kubernetes Events. Pure.

An Event's name is derived from its content, so that sending it twice (after a crash) creates no second one.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from costopt.names import TRAIN_STAGE
from costopt.schema.base import API_VERSION
from costopt.schema.status import ConditionType, JobStatus, StageStatus

COMPONENT = "costopt-operator"


@dataclass(frozen=True)
class Event:
    """Something that happened to a job."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    about: str = ""
    """Its subject, if a job gets one Event for each subject; empty: it may happen in each attempt."""


def events_between(before: JobStatus, after: JobStatus) -> Iterator[Event]:
    """What happened, in the order in which a person would tell it."""
    for stage in after.stages:
        earlier = before.stage(stage.name)
        lost = earlier is not None and (stage.failures, stage.disruptions) != (earlier.failures, earlier.disruptions)
        if earlier is not None and lost and stage.attempt > earlier.attempt:
            yield _restart(before, after, earlier, stage)
    if _became(before, after, "BudgetExceeded", "True"):
        yield Event("Warning", "BudgetExceeded", _message(after, "BudgetExceeded"))
    if _became(before, after, "Priced", "False") and _reason(after, "Priced") == "PriceUnknown":
        yield Event("Warning", "PriceUnknown", _message(after, "Priced"))
    if _became(before, after, "Suspended", "True"):
        yield Event("Normal", "Suspended", _message(after, "Suspended"))
    if _status(before, "Suspended") == "True" and _status(after, "Suspended") == "False":
        yield Event("Normal", "Resumed", f"the job goes on; execution {after.execution}")
    if _became(before, after, "Succeeded", "True"):
        yield Event("Normal", _reason(after, "Succeeded"), f"{_message(after, 'Succeeded')}{_cost(after)}")
    if _became(before, after, "Succeeded", "False"):
        yield Event("Warning", _reason(after, "Succeeded"), f"{_message(after, 'Succeeded')}{_cost(after)}")


def _restart(before: JobStatus, after: JobStatus, earlier: StageStatus, stage: StageStatus) -> Event:
    what = "training" if stage.name == TRAIN_STAGE else stage.name
    kind = "Disrupted" if stage.disruptions > earlier.disruptions else "Restarted"
    failure = after.failure or before.failure
    why = f" after: {failure.message}" if failure else ""
    return Event("Warning", kind, f"{what} goes on with attempt {stage.attempt}{why}"[:1000])


def _cost(status: JobStatus) -> str:
    bill = status.bill
    if bill is None or bill.list_cost is None:
        return ""
    return f"; it cost {bill.list_cost} {bill.currency or ''}".rstrip()


def _status(status: JobStatus, kind: ConditionType) -> str:
    condition = status.condition(kind)
    return condition.status if condition else ""


def _reason(status: JobStatus, kind: ConditionType) -> str:
    condition = status.condition(kind)
    return condition.reason if condition else ""


def _message(status: JobStatus, kind: ConditionType) -> str:
    condition = status.condition(kind)
    return condition.message if condition else ""


def _became(before: JobStatus, after: JobStatus, kind: ConditionType, status: str) -> bool:
    return _status(after, kind) == status != _status(before, kind)


def event_manifest(event: Event, *, namespace: str, name: str, uid: str, key: str, now: datetime) -> dict[str, Any]:
    """The Event as a Kubernetes object; `key` distinguishes events that repeat within a job."""
    digest = hashlib.sha256(f"{uid}/{event.reason}/{key}".encode()).hexdigest()[:12]
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name[:200].rstrip('-.')}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": "CostOptJob",
            "name": name,
            "namespace": namespace,
            "uid": uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:1000],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
