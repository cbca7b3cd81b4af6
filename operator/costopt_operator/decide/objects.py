"""The few fields kept of each object, those that decisions depend on: 1 % of what the API server sends.

Timestamps stay text until they are needed. Everything here is pure.
"""

import functools
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from costopt import names
from costopt.plan.evidence import Evidence, is_disruption
from costopt.plan.foreign_text import one_line
from costopt.render.pods import CONTAINER as TRAINER_CONTAINER
from costopt.schema.base import NAME_PATTERN
from costopt.schema.replica import TerminationMessage
from costopt_operator.decide import shapes
from costopt_operator.decide.effective_requests import Requests, effective_requests_of
from costopt_operator.decide.keys import Key
from costopt_operator.decide.kinship import Gang
from costopt_operator.decide.ownership import JOB_KIND, Controller, controller_of
from costopt_operator.decide.pod_reasons import container_time, evidence_of, said_at_end, wait_of

Json = dict[str, Any]

log = logging.getLogger(__name__)

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
UNSEEN_REASON = "ContainerStatusUnknown"
"""Reason of a container that the kubelet no longer knows; the exit code beside it is made up."""
NUMBER = re.compile(r"[0-9]{1,9}")
"""Attempts and completion indexes: labels that anybody may write must not lead to an invalid record."""
_SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
MOST_MARKS = 64
"""Queue labels, and queue annotations, that are read."""
ORPHAN_FINALIZER = "orphan"
"""The API server sets it on an object deleted without its children, until they have lost their owner."""
LARGEST_OBJECT = 1_572_864
"""Bytes of the largest object that etcd stores by default (--max-request-bytes)."""
FOR_OTHERS = 98_304
"""Bytes of it reserved for what is written beside the status: who wrote which field, and when."""
POD_NAME = re.compile(r".+-([0-9]{1,9})-[a-z0-9]{5}")
"""Of an Indexed Job: <job>-<index>-<5 random>."""
MESSAGE_LIMIT = 8192
"""Characters read of a termination message; a kubelet writes at most 4,096 bytes."""


@dataclass(frozen=True, slots=True)
class JobObject:
    """A CostOptJob."""

    namespace: str
    name: str
    uid: str
    resource_version: int = field(compare=False)
    deleting: bool
    leaves_children: bool
    """It is being deleted without its children (`kubectl delete --cascade=orphan`)."""
    generation: int
    document: bytes
    """The object without its status, as JSON of our schema: metadata has only the fields of that schema."""
    status: bytes
    """Its status as JSON; "{}" if it has none."""
    room: int = field(compare=False)
    """Bytes left for a status beside the rest of the object; below 0 if the rest alone is too large."""

    @property
    def key(self) -> Key:
        """Its work queue key."""
        return (self.namespace, self.uid)

    @property
    def is_new(self) -> bool:
        """Nothing has been done for it yet."""
        return self.status == b"{}"


@dataclass(frozen=True, slots=True)
class ChildJob:
    """The batch Job of one attempt."""

    namespace: str
    name: str
    uid: str
    resource_version: int = field(compare=False)
    job_uid: str
    """Of the CostOptJob that is its controller."""
    job_name: str
    stage: str
    attempt: int
    completions: int
    created: str
    suspended: bool
    """A queue has not admitted it, or has evicted it."""
    started: str | None
    """When its pods were last allowed to run; reset when it is suspended."""
    failing: bool
    """FailureTarget or Failed: none of its pods is replaced."""
    complete: bool
    completed_indexes: str
    """Such as "0-3,5"."""
    deleting: bool

    @property
    def key(self) -> Key:
        """The job it belongs to."""
        return (self.namespace, self.job_uid)

    @property
    def gang(self) -> Gang:
        """The identity of its pods."""
        return Gang(self.uid, self.namespace, self.job_uid, self.job_name, self.stage, self.attempt)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod whose labels claim a gang. `of_gang` gives its true one."""

    namespace: str
    name: str
    uid: str
    resource_version: int = field(compare=False)
    controller: Controller
    """What its controller reference names; for a gang's pod, its batch Job."""
    gang_uid: str
    """Uid of that batch Job, even after somebody removed the reference."""
    job_uid: str
    """From its label until its batch Job is known; likewise stage and attempt."""
    stage: str
    attempt: int
    index: int
    created: str
    has_finalizer: bool
    orphan: bool
    """Its batch Job was deleted without it, so nothing else deletes it."""
    node: str | None
    requests: Requests
    """What it holds."""
    phase: str
    deleted: str | None
    """metadata.deletionTimestamp: when its grace period is over."""
    grace_seconds: int | None
    """metadata.deletionGracePeriodSeconds."""
    scheduled: str | None
    """When a node was found for it."""
    started: str | None
    """When its container last began to run."""
    running: bool
    """Its container runs now."""
    finished: str | None
    """When its last container ended; None while one runs, or if that was not seen."""
    trainer_finished: str | None
    """When the trainer's container ended, if that was seen."""
    last_sign: str
    """Latest time on any of its conditions: it was still alive then."""
    exit_code: int | None
    disrupted: bool
    evidence: Evidence
    """What its status says about its end."""
    said: TerminationMessage | None
    """Its termination message; None if it has none, or none of ours."""
    waiting_for: str
    """Why it does not run yet."""
    waits_in_vain: bool
    """What it waits for will never come."""

    @property
    def key(self) -> Key:
        """The job it belongs to."""
        return (self.namespace, self.job_uid)

    def of_gang(self, gang: Gang) -> "Pod":
        """The pod as one of this batch Job."""
        return replace(self, gang_uid=gang.uid, job_uid=gang.job_uid, stage=gang.stage, attempt=gang.attempt)

    @property
    def ended(self) -> bool:
        """It holds nothing: its containers have ended, or it never reached a node, or was deleted by force."""
        if self.phase in ("Succeeded", "Failed"):
            return True
        return self.deleted is not None and (self.node is None or self.grace_seconds == 0)


@dataclass(frozen=True, slots=True)
class ServiceObject:
    """A headless Service; only its existence matters."""

    namespace: str
    name: str
    uid: str
    resource_version: int = field(compare=False)
    job_uid: str
    """Of the CostOptJob that is its controller."""

    @property
    def key(self) -> Key:
        """The job it belongs to."""
        return (self.namespace, self.job_uid)


@functools.lru_cache(maxsize=8192)
def parse_time(text: str) -> datetime:
    """RFC 3339 text as an aware datetime. The pods of a gang share most of their times."""
    return datetime.fromisoformat(text).astimezone(UTC)


def parse_job(data: Json) -> JobObject:
    """A CostOptJob from the API server's JSON."""
    metadata = data["metadata"]
    document = {
        "apiVersion": data["apiVersion"],
        "kind": data["kind"],
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "generation": metadata["generation"],
            # Only a queue's labels matter to us, and there may be more labels than our schema allows.
            "labels": _of_queues(metadata.get("labels")),
            "annotations": _of_queues(metadata.get("annotations")),
        },
        "spec": data.get("spec", {}),
    }
    return JobObject(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        deleting="deletionTimestamp" in metadata,
        leaves_children="deletionTimestamp" in metadata and ORPHAN_FINALIZER in metadata.get("finalizers", []),
        generation=metadata["generation"],
        document=_compact(document),
        status=_compact(data.get("status") or {}),
        room=LARGEST_OBJECT - FOR_OTHERS - stored_bytes({**data, "status": None}),
    )


def stored_bytes(data: object) -> int:
    """Upper bound on the stored bytes of the data; an API server writes "<", ">" and "&" as six characters."""
    written = _compact(data)
    return len(written) + 5 * sum(map(written.count, (b"<", b">", b"&")))


def _of_queues(marks: Mapping[str, str] | None) -> dict[str, str]:
    found = {key: value for key, value in (marks or {}).items() if key.startswith(names.QUEUE_PREFIX)}
    kept = sorted(found, key=lambda key: (key != names.QUEUE_NAME_LABEL, key))[:MOST_MARKS]
    if len(kept) < len(found):
        _say_once(f"only {MOST_MARKS} of the {len(found)} labels or annotations of a queue are read")
    return {key: found[key] for key in kept}


def _fit(shape: shapes.Shape, data: Json) -> Json:
    """The object as its readers need it; dropped parts are logged once."""
    fit: Json = shapes.shaped(shape, data)
    places = shapes.differs(data, fit) if fit != data else []
    if places:
        _say_once(f"{fit['metadata']['name']} ({fit['metadata']['uid']}): passed over or cut: {', '.join(places[:8])}")
    return {"spec": {}, "status": {}, **fit}


@functools.lru_cache(maxsize=4096)
def _say_once(sentence: str) -> None:
    log.warning("%s", one_line(sentence, 1000))


def _compact(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def parse_child_job(data: Json) -> ChildJob:
    """A batch Job from the API server's JSON. ValueError if it is no gang's, whatever its labels say."""
    data = _fit(shapes.JOB, data)
    metadata, spec, status = data["metadata"], data["spec"], data.get("status", {})
    labels, job = metadata.get("labels") or {}, _job_of(metadata)
    stage, attempt = _stage(labels), _number(labels, names.LABEL_ATTEMPT)
    if metadata["name"] != names.child_name(job.name, stage, attempt):
        raise ValueError(f"its name is not that of attempt {attempt} of {stage}")
    conditions = {item["type"] for item in status.get("conditions", []) if item["status"] == "True"}
    return ChildJob(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        job_uid=job.uid,
        job_name=job.name,
        stage=stage,
        attempt=attempt,
        completions=spec.get("completions", 1),
        created=metadata["creationTimestamp"],
        suspended=bool(spec.get("suspend", False)),
        started=status.get("startTime"),
        failing=bool(conditions & {"FailureTarget", "Failed"}),
        complete="Complete" in conditions,
        completed_indexes=status.get("completedIndexes", ""),
        deleting="deletionTimestamp" in metadata,
    )


def _job_of(metadata: Json) -> Controller:
    controller = controller_of(metadata)
    if controller.kind != JOB_KIND or not controller.uid:
        raise ValueError("no CostOptJob is its controller")
    return controller


def _stage(labels: Mapping[str, str]) -> str:
    stage = labels.get(names.LABEL_STAGE, "")
    if not re.match(NAME_PATTERN, stage):
        raise ValueError(f"the label {names.LABEL_STAGE} names no stage")
    return stage


def _number(labels: Mapping[str, str], label: str) -> int:
    text = labels.get(label, "0")
    if not NUMBER.fullmatch(text):
        raise ValueError(f"the label {label} is no number that a gang can have")
    return int(text)


def parse_service(data: Json) -> ServiceObject:
    """A Service from the API server's JSON."""
    data = _fit(shapes.SERVICE, data)
    metadata = data["metadata"]
    return ServiceObject(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        job_uid=_job_of(metadata).uid,
    )


def parse_pod(data: Json) -> Pod:
    """A pod from the API server's JSON."""
    data = _fit(shapes.POD, data)
    metadata, status = data["metadata"], data.get("status", {})
    labels, controller = metadata.get("labels") or {}, controller_of(metadata)
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    containers = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
    states = [container.get("state", {}) for container in containers]
    ends = [state["terminated"] for state in states if "terminated" in state]
    main = _trainer_state(status.get("containerStatuses", []))
    terminated = main.get("terminated")
    scheduled = conditions.get("PodScheduled", {})
    finished = [time for end in ends if (time := container_time(end.get("finishedAt")))]
    signs = [item["lastTransitionTime"] for item in conditions.values() if item.get("lastTransitionTime")]
    evidence = evidence_of(data["spec"], status, conditions, terminated or {})
    waiting = wait_of(data["spec"], status, conditions, main)
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        controller=controller,
        gang_uid=controller.uid or metadata["uid"],
        job_uid=labels.get(names.LABEL_JOB_UID, ""),
        stage=labels.get(names.LABEL_STAGE, ""),
        attempt=int(labels[names.LABEL_ATTEMPT]) if NUMBER.fullmatch(labels.get(names.LABEL_ATTEMPT, "")) else 0,
        index=_index(metadata["name"], labels),
        created=metadata["creationTimestamp"],
        has_finalizer=names.USAGE_FINALIZER in metadata.get("finalizers", []),
        orphan=not metadata.get("ownerReferences"),
        node=data["spec"].get("nodeName"),
        requests=effective_requests_of(data["spec"], status),
        phase=status.get("phase", "Pending"),
        deleted=metadata.get("deletionTimestamp"),
        grace_seconds=metadata.get("deletionGracePeriodSeconds"),
        scheduled=scheduled.get("lastTransitionTime") if scheduled.get("status") == "True" else None,
        started=container_time((main.get("running") or terminated or {}).get("startedAt")),
        running="running" in main,
        finished=max(finished) if states and len(finished) == len(states) else None,
        trainer_finished=container_time((terminated or {}).get("finishedAt")),
        last_sign=max([metadata["creationTimestamp"], *signs]),
        exit_code=terminated.get("exitCode") if terminated and terminated.get("reason") != UNSEEN_REASON else None,
        disrupted=is_disruption(evidence),
        evidence=evidence,
        said=said_at_end((terminated or {}).get("message", "")[:MESSAGE_LIMIT]),
        waiting_for=waiting.words,
        waits_in_vain=waiting.in_vain,
    )


def _index(name: str, labels: Mapping[str, str]) -> int:
    """Its completion index: from the name that the Job controller gave it, which nobody can change; else its label."""
    named = POD_NAME.fullmatch(name)
    return int(named[1]) if named else _number(labels, INDEX_LABEL)


def _trainer_state(containers: list[Json]) -> Json:
    """State of the trainer's container; there may be others (injected sidecars) beside it."""
    state: Json = next((item.get("state", {}) for item in containers if item["name"] == TRAINER_CONTAINER), {})
    return state


def indexes(text: str) -> frozenset[int]:
    """The numbers in "0-3,5" that a gang can have; invalid parts are skipped."""
    found: set[int] = set()
    for part in text.split(","):
        span = _SPAN.fullmatch(part)
        if span is not None:
            first, last = int(span[1]), int(span[2] or span[1])
            found.update(range(min(first, shapes.MOST_GANG), min(last, shapes.MOST_GANG - 1) + 1))
    return frozenset(found)
