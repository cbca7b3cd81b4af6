"""The pods of a job: which replica each of them is, and what it waits for."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from costopt.cluster.api import Cluster, Plain, segment
from costopt.names import LABEL_ATTEMPT, LABEL_JOB_UID, LABEL_STAGE, MANAGED_BY_SELECTOR
from costopt.render.pods import INDEX_ANNOTATION


@dataclass(frozen=True)
class ReplicaPod:
    """One pod, as the replica that it is."""

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
    """The job's pods that are still there, in order of creation; a pod that took another's place counts, not that."""
    query = {"labelSelector": f"{MANAGED_BY_SELECTOR},{LABEL_JOB_UID}={job_uid}"}
    found = cluster.ask("GET", f"/api/v1/namespaces/{segment(namespace)}/pods", query)
    pods = sorted((pod for item in found.get("items") or [] if (pod := replica_pod(item))), key=lambda pod: pod.created)
    latest = {pod.replica: pod for pod in pods}
    return sorted(latest.values(), key=lambda pod: (pod.created, pod.replica))


def replica_pod(pod: Plain) -> ReplicaPod | None:
    """A pod as a replica; None if it lacks the marks of one, or has some that no replica has."""
    metadata: Plain = pod["metadata"]
    labels: Plain = metadata.get("labels") or {}
    attempt, index = (
        _number(labels.get(LABEL_ATTEMPT)),
        _number((metadata.get("annotations") or {}).get(INDEX_ANNOTATION)),
    )
    if LABEL_STAGE not in labels or attempt is None or index is None:
        return None
    status: Plain = pod.get("status") or {}
    return ReplicaPod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        stage=labels[LABEL_STAGE],
        attempt=attempt,
        index=index,
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        phase=status.get("phase", "Pending"),
        waits_for=_waits_for(status),
    )


def _number(text: str | None) -> int | None:
    """The number; None if it is none that a replica has, for anybody may have written it."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else None


def _waits_for(status: Plain) -> str | None:
    if status.get("phase", "Pending") != "Pending":
        return None
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return _words(condition, "to be scheduled")
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return _words(waiting, "its container")
    return "its container"


def _words(entry: dict[str, Any], otherwise: str) -> str:
    """`reason: message`, or what of it there is."""
    parts = [" ".join(entry[key].split()) for key in ("reason", "message") if entry.get(key)]
    return ": ".join(parts) or otherwise
