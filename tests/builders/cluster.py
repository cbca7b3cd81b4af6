"""Pods that do what a test says, and small objects to apply, for tests on a control plane."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.stages import PLAY_ANNOTATION


@dataclass(frozen=True, kw_only=True)
class Play:
    """One direction for pods: the first fields select them, the others say what they do. None: any pod, or the default.

    Several directions may match a pod; a later one overrides only the fields it sets.
    """

    stage: str | None = None
    attempt: int | None = None
    execution: int | None = None
    index: int | None = None
    """Completion index, as in the pod's label."""

    start_seconds: float | None = None
    """From being scheduled to running; default 0."""

    run_seconds: float | Literal["forever"] | None = None
    """From running to its end; default 1."""

    exit_code: int | None = None
    """Default 0. Succeeded with 0, else Failed."""

    reason: str | None = None
    """Of the container's end, e.g. OOMKilled; default Completed or Error."""

    message: str | Mapping[str, Any] | None = None
    """The termination message; an object is written as JSON."""

    pod_reason: str | None = None
    """Of the pod's end, e.g. Evicted; default none."""

    pod_message: str | None = None
    """The message beside `pod_reason`."""

    waiting_reason: str | None = None
    """It never starts, and its container waits for this reason, e.g. ImagePullBackOff."""

    waiting_message: str | None = None
    """The message beside `waiting_reason`; default: the kubelet backs off."""

    stop_seconds: float | None = None
    """From its deletion to its end; default 0.2."""

    stop_exit_code: int | None = None
    """If it is deleted while running; default 143."""

    stop_message: str | Mapping[str, Any] | None = None
    """The termination message if it is deleted while running; default `message`."""

    def document(self) -> dict[str, Any]:
        """The direction as written in the annotation."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        return {_camel(key): json.dumps(value) if isinstance(value, Mapping) else value for key, value in given.items()}


def play(*directions: Play) -> dict[str, str]:
    """Annotations for a pod template (a job's `spec.pods.annotations`) that direct its pods."""
    return {PLAY_ANNOTATION: json.dumps([direction.document() for direction in directions])}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def batch_job(name: str, *directions: Play, pods: int = 2, finalizers: tuple[str, ...] = ()) -> dict[str, Any]:
    """An Indexed Job of pods with one GPU each, without retries."""
    container = {"name": "main", "image": "registry.invalid/any:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    template = {
        "metadata": {"annotations": play(*directions), "finalizers": list(finalizers)},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    spec = {
        "completions": pods,
        "parallelism": pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "template": template,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def has_condition(document: Mapping[str, Any], kind: str, status: str = "True") -> bool:
    """Whether an object's status has this condition."""
    conditions = document.get("status", {}).get("conditions", [])
    return any(condition["type"] == kind and condition["status"] == status for condition in conditions)


def ended_container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """How a pod's first container ended; empty while it has not."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    ended: dict[str, Any] = statuses[0]["state"].get("terminated", {}) if statuses else {}
    return ended
