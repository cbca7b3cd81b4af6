"""The pods of a job: which replica each of them is, and what it waits for."""

import re
from dataclasses import dataclass
from datetime import datetime

from costopt.cluster.api import Cluster, Plain, segment
from costopt.cluster.shapes import mapping, mappings, moment, text
from costopt.names import LABEL_ATTEMPT, LABEL_JOB_UID, LABEL_STAGE, MANAGED_BY_SELECTOR
from costopt.render.pods import INDEX_ANNOTATION


@dataclass(frozen=True)
class ReplicaPod:
    """One pod as a replica."""

    namespace: str
    name: str
    uid: str
    stage: str
    attempt: int
    index: int
    created: datetime
    phase: str
    waits_for: str | None
    """Why it does not run yet, in the scheduler's or the kubelet's words. None: it runs or has ended."""

    @property
    def replica(self) -> str:
        """`<stage>-a<attempt>-<index>`."""
        return f"{self.stage}-a{self.attempt}-{self.index}"

    @property
    def has_ended(self) -> bool:
        """Whether its log is complete."""
        return self.phase in ("Succeeded", "Failed")


def pods_of(cluster: Cluster, namespace: str, job_uid: str) -> list[ReplicaPod]:
    """The job's existing pods in order of creation; of a pod and its replacement, only the replacement."""
    query = {"labelSelector": f"{MANAGED_BY_SELECTOR},{LABEL_JOB_UID}={job_uid}"}
    found = cluster.ask("GET", f"/api/v1/namespaces/{segment(namespace)}/pods", query)
    pods = sorted(
        (pod for item in mappings(found.get("items")) if (pod := replica_pod(item))), key=lambda pod: pod.created
    )
    latest = {pod.replica: pod for pod in pods}
    return sorted(latest.values(), key=lambda pod: (pod.created, pod.replica))


def replica_pod(pod: Plain) -> ReplicaPod | None:
    """A pod as a replica; None if a replica's labels are missing or invalid."""
    metadata = mapping(pod.get("metadata"))
    labels = mapping(metadata.get("labels"))
    attempt = _number(labels.get(LABEL_ATTEMPT))
    index = _number(mapping(metadata.get("annotations")).get(INDEX_ANNOTATION))
    namespace, name, uid = (text(metadata.get(key)) for key in ("namespace", "name", "uid"))
    stage, created = text(labels.get(LABEL_STAGE)), moment(metadata.get("creationTimestamp"))
    if not (namespace and name and uid and stage and created) or attempt is None or index is None:
        return None
    status = mapping(pod.get("status"))
    return ReplicaPod(
        namespace=namespace,
        name=name,
        uid=uid,
        stage=stage,
        attempt=attempt,
        index=index,
        created=created,
        phase=text(status.get("phase")) or "Pending",
        waits_for=_waits_for(status),
    )


def _number(value: object) -> int | None:
    """The number, or None if no replica can have it: anybody may have written it."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else None


def _waits_for(status: Plain) -> str | None:
    if (text(status.get("phase")) or "Pending") != "Pending":
        return None
    for condition in mappings(status.get("conditions")):
        if condition.get("type") == "PodScheduled" and condition.get("status") != "True":
            return _words(condition, "to be scheduled")
    for container in [*mappings(status.get("initContainerStatuses")), *mappings(status.get("containerStatuses"))]:
        waiting = mapping(mapping(container.get("state")).get("waiting"))
        if waiting:
            return _words(waiting, "its container")
    return "its container"


def _words(entry: Plain, otherwise: str) -> str:
    """`reason: message`, or the part that exists."""
    parts = [" ".join(words.split()) for key in ("reason", "message") if (words := text(entry.get(key)))]
    return ": ".join(parts) or otherwise
