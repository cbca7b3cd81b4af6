"""Pods as the kubelet, scheduler and controllers of Kubernetes 1.34 with containerd 1.7 leave them."""

import json
from collections.abc import Mapping
from typing import Any

from builders.operator import at, pod_json

Json = dict[str, Any]

IMAGE = "registry.invalid/team/trainer:2"
NEVER = "1970-01-01T00:00:00Z"


def container_end(code: int, reason: str = "Error", message: str = "", **changes: Any) -> Json:
    """A container's end, as its kubelet writes it."""
    end = {
        "exitCode": code,
        "reason": reason,
        "startedAt": at(2),
        "finishedAt": at(61),
        "containerID": "containerd://f0",
    }
    return {"terminated": {**end, **({"message": message} if message else {}), **changes}}


def launcher_end(container_reason: str = "Error", **said: Any) -> Json:
    """The end of a launcher that could still say why one of its ranks failed."""
    return container_end(1, container_reason, json.dumps({"exitCode": 1, **said}))


def start_error(message: str) -> Json:
    """A container that could not be started: its kubelet gives the Unix epoch as its start."""
    said = f"failed to create containerd task: failed to create shim task: OCI runtime create failed: {message}"
    return container_end(128, "StartError", said, startedAt=NEVER)


UNKNOWN_END = container_end(
    137,
    "ContainerStatusUnknown",
    "The container could not be located when the pod was terminated",
    startedAt=None,
    finishedAt=None,
)
"""What a kubelet makes up for a container that it has lost."""


def broken_pod(
    *,
    state: Json | None = None,
    limits: Mapping[str, str] | None = None,
    attempt: int = 0,
    **status: Any,
) -> Json:
    """A failed pod; `disruption` is the reason and message of its DisruptionTarget, the rest its status."""
    data = pod_json(phase="Failed", attempt=attempt)
    told = status.pop("disruption", None)
    data["spec"]["containers"][0] |= {"image": IMAGE}
    data["spec"]["containers"][0]["resources"]["limits"] = dict(limits or {})
    conditions = [
        {"type": kind, "status": "False", "reason": "PodFailed", "lastTransitionTime": at(61)}
        for kind in ("Ready", "ContainersReady")
    ]
    if told is not None:
        reason, message = told
        conditions.append(
            {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": reason,
                "message": message,
                "lastTransitionTime": at(60),
            }
        )
    data["status"]["conditions"] += conditions
    data["status"]["containerStatuses"] = [] if state is None else [_status(state)]
    data["status"] |= status
    return data


def waiting_pod(reason: str, message: str = "", index: int = 0, *, image: str = IMAGE) -> Json:
    """A pod that is placed, but its container waits."""
    data = pod_json(index, phase="Pending")
    data["spec"]["containers"][0] |= {"image": image}
    waiting = {"reason": reason, **({"message": message} if message else {})}
    data["status"]["containerStatuses"] = [_status({"waiting": waiting}, image)]
    return data


def unplaced_pod(message: str, reason: str = "Unschedulable", index: int = 0) -> Json:
    """A pod for which no node was found yet."""
    data = pod_json(index, phase="Pending", scheduled=None)
    data["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastTransitionTime": at(1)}
    ]
    return data


def _status(state: Json, image: str = IMAGE) -> Json:
    return {"name": "trainer", "image": image, "imageID": "", "ready": False, "restartCount": 0, "state": state}
