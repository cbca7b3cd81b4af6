"""Kubernetes objects as the API server sends them, and a world of them, for tests of the operator's decisions."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from builders.documents import plain_given_job
from cases.mistakes import plain_job, plain_price_book
from costopt import names
from costopt.render.labels import label_value
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook
from costopt.schema.status import JobStatus
from costopt_operator.decide.objects import ChildJob, Pod, parse_child_job, parse_pod
from costopt_operator.decide.observe import JobSnapshot
from costopt_operator.decide.reconcile import Decision, WriteHistory, reconcile

Json = dict[str, Any]

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"


def at(seconds: float) -> str:
    """The API server's text for a time in seconds after START."""
    return (START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(seconds: float) -> datetime:
    """`seconds` after START."""
    return START + timedelta(seconds=seconds)


def a_job(name: str = "tiny", *, labels: dict[str, str] | None = None, **spec: Any) -> CostOptJob:
    """A valid job as on the API server; two replicas, no variants by default, restarted at once."""
    restarts = {"backoffSeconds": 0, **spec.pop("restarts", {})}
    plain = plain_job(**{"compress": [], "restarts": restarts, **spec})
    plain["metadata"] = {"name": name, "namespace": "team", "uid": UID, "generation": 1, "labels": labels or {}}
    return CostOptJob.model_validate(plain)


def a_given_job(**spec: Any) -> CostOptJob:
    """The same without a training: the variants `int8` and `small` of a model that is there."""
    plain = plain_given_job(**{"restarts": {"backoffSeconds": 0}, **spec})
    plain["metadata"] = {"name": "tiny", "namespace": "team", "uid": UID, "generation": 1, "labels": {}}
    return CostOptJob.model_validate(plain)


def a_book(**spec: Any) -> PriceBook:
    """The sample price book."""
    return PriceBook.model_validate(plain_price_book(**spec))


def _labels(stage: str, attempt: int, job: str, uid: str) -> dict[str, str]:
    return {
        **names.MANAGED_BY,
        names.LABEL_JOB: label_value(job),
        names.LABEL_JOB_UID: uid,
        names.LABEL_STAGE: stage,
        names.LABEL_ATTEMPT: str(attempt),
    }


def owner(kind: str, name: str, uid: str) -> Json:
    """A controller reference to that object."""
    return {"kind": kind, "name": name, "uid": uid, "controller": True}


def child_json(stage: str = "train", attempt: int = 0, *, job: str = "tiny", uid: str = UID, **changes: Any) -> Json:
    """A batch Job; `conditions` names those that are True."""
    conditions = changes.pop("conditions", ())
    status = {"startTime": at(0), **changes.pop("status", {})}
    if conditions:
        status["conditions"] = [{"type": kind, "status": "True"} for kind in conditions]
    return {
        "metadata": {
            "name": names.child_name(job, stage, attempt),
            "namespace": "team",
            "uid": f"job-{stage}-{attempt}",
            "resourceVersion": "10",
            "creationTimestamp": at(0),
            "labels": _labels(stage, attempt, job, uid),
            "ownerReferences": [owner("CostOptJob", job, uid)],
            **changes.pop("metadata", {}),
        },
        "spec": {"completions": 2 if stage == "train" else 1, **changes},
        "status": status,
    }


def child(stage: str = "train", attempt: int = 0, **changes: Any) -> ChildJob:
    """The same, as the operator keeps it."""
    return parse_child_job(child_json(stage, attempt, **changes))


def pod_json(
    index: int = 0,
    *,
    stage: str = "train",
    attempt: int = 0,
    phase: str = "Running",
    exit_code: int | None = None,
    message: object = None,
    scheduled: float | None = 1,
    finished: float = 61,
    finalizer: bool = True,
    conditions: tuple[str, ...] = (),
    deleted: float | None = None,
    grace: int = 120,
    node: str | None = "node-1",
    uid: str = UID,
) -> Json:
    """A pod of a gang; times in seconds after START."""
    state: Json = {"waiting": {"reason": "ContainerCreating"}}
    if phase == "Running":
        state = {"running": {"startedAt": at(2)}}
    elif exit_code is not None:
        text = message if isinstance(message, str) else json.dumps(message) if message is not None else ""
        state = {"terminated": {"startedAt": at(2), "finishedAt": at(finished), "exitCode": exit_code, "message": text}}
    metadata: Json = {
        "name": f"{stage}-a{attempt}-{index}",
        "namespace": "team",
        "uid": f"pod-{stage}-{attempt}-{index}",
        "resourceVersion": "20",
        "creationTimestamp": at(0),
        "ownerReferences": [owner("Job", names.child_name("tiny", stage, attempt), f"job-{stage}-{attempt}")],
        "labels": {
            **_labels(stage, attempt, "tiny", uid),
            "batch.kubernetes.io/job-completion-index": str(index),
        },
        "finalizers": [names.USAGE_FINALIZER, "batch.kubernetes.io/job-tracking"] if finalizer else [],
    }
    if deleted is not None:
        metadata |= {"deletionTimestamp": at(deleted), "deletionGracePeriodSeconds": grace}
    told = [{"type": kind, "status": "True", "lastTransitionTime": at(50)} for kind in conditions]
    placed = (
        [] if scheduled is None else [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(scheduled)}]
    )
    requests = {"cpu": "500m", "memory": "1Gi"}
    return {
        "metadata": metadata,
        "spec": {
            **({"nodeName": node} if node and scheduled is not None else {}),
            "containers": [{"name": "trainer", "resources": {"requests": requests}}],
        },
        "status": {
            "phase": phase,
            "conditions": [*placed, *told],
            "containerStatuses": [{"name": "trainer", "state": state}] if scheduled is not None else [],
        },
    }


def pod(index: int = 0, **changes: Any) -> Pod:
    """The same, as the operator keeps it."""
    return parse_pod(pod_json(index, **changes))


def done(index: int = 0, **changes: Any) -> Pod:
    """A pod that succeeded."""
    return pod(index, **{"phase": "Succeeded", "exit_code": 0, **changes})


def failed(index: int = 0, exit_code: int = 1, **changes: Any) -> Pod:
    """A pod that failed."""
    return pod(index, **{"phase": "Failed", "exit_code": exit_code, **changes})


class Story:
    """A job whose status is kept from one reconcile to the next, as by the API server."""

    def __init__(self, job: CostOptJob | None = None, book: PriceBook | None = None) -> None:
        self.job = job or a_job()
        self.book = book if book is not None else a_book()
        self.status = JobStatus()
        self.memory = WriteHistory()
        self.written: list[JobStatus] = []

    def look(self, seconds: float, *seen: ChildJob | Pod, **changes: Any) -> Decision:
        """One reconcile, `seconds` after START, with exactly these children; keeps the status it writes."""
        world = JobSnapshot(
            **{
                "job": self.job,
                "status": self.status,
                "generation": 1,
                "child_jobs": tuple(item for item in seen if isinstance(item, ChildJob)),
                "pods": tuple(item for item in seen if isinstance(item, Pod)),
                "book": self.book,
                **changes,
            }
        )
        todo = reconcile(world, self.memory, moment(seconds))
        if todo.status is not None:
            self.status = JobStatus.model_validate_json(json.dumps(todo.status.to_plain()))
            self.written.append(self.status)
        wrote = moment(seconds) if todo.status is not None else self.memory.last_written
        self.memory = WriteHistory(wrote, todo.noticed, todo.remembered)
        return todo

    def reason(self) -> str:
        """Reason of the Succeeded condition."""
        condition = self.status.condition("Succeeded")
        return condition.reason if condition else ""

    def state(self, stage: str = "train") -> str:
        """State of a stage."""
        found = self.status.stage(stage)
        return found.state if found else ""
