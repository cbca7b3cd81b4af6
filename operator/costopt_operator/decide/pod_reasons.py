"""A pod's status in words: why it does not run yet, and why it ended. Bounded and safe to show. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from costopt.plan import waits
from costopt.plan.evidence import NOTHING, REASON_LIMIT, WORDS_LIMIT, Evidence
from costopt.plan.foreign_text import one_line
from costopt.plan.waits import Wait
from costopt.render.pods import CONTAINER as TRAINER_CONTAINER
from costopt.schema.lenient_parse import read_known
from costopt.schema.replica import TerminationMessage

Json = dict[str, Any]

_NEVER = "1970-01-01T00:00:00Z"
"""Start time that a kubelet writes for a container that could not be started."""


def container_time(text: str | None) -> str | None:
    """A time of a container; None if its event has not happened."""
    return None if text == _NEVER else text


def evidence_of(spec: Json, status: Json, conditions: Mapping[str, Json], terminated: Json) -> Evidence:
    """What a status says about a pod's end; empty while the pod runs."""
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = disruption.get("status") == "True"
    if not (terminated or disrupted or status.get("reason")):
        return NOTHING
    message = terminated.get("message", "")
    return Evidence(
        container_reason=one_line(terminated.get("reason", ""), REASON_LIMIT),
        container_message="" if said_at_end(message) else one_line(message, WORDS_LIMIT),
        signal=terminated.get("signal"),
        pod_reason=one_line(status.get("reason", ""), REASON_LIMIT),
        pod_message=one_line(status.get("message", ""), WORDS_LIMIT),
        disruption_reason=(one_line(disruption.get("reason", ""), REASON_LIMIT) or "Unnamed") if disrupted else "",
        disruption_message=one_line(disruption.get("message", ""), WORDS_LIMIT) if disrupted else "",
        memory_limit=_memory_limit(spec),
    )


def said_at_end(message: str) -> TerminationMessage | None:
    """The launcher's message in a container's termination message; None if that is empty or not ours."""
    if not message.startswith("{"):
        return None
    try:
        said, fields = read_known(TerminationMessage, message.encode()), json.loads(message)
    except (ValueError, RecursionError):  # also numbers and depths that only one of the two parsers accepts
        return None
    # A later launcher may write more fields than are known; in the user's own JSON only the code is known.
    return None if len(fields) > 1 and said.model_fields_set == {"exit_code"} else said


def _memory_limit(spec: Json) -> str:
    """Memory limit of the trainer's container; empty without one."""
    for item in spec.get("containers", []):
        if item["name"] == TRAINER_CONTAINER:
            return one_line(str(item.get("resources", {}).get("limits", {}).get("memory", "")), REASON_LIMIT)
    return ""


def wait_of(spec: Json, status: Json, conditions: Mapping[str, Json], main: Json) -> Wait:
    """What a pod that does not run waits for, in words that do not change while it waits."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return waits.scheduling(scheduled.get("reason", ""), scheduled.get("message", ""))
    if status.get("phase", "Pending") != "Pending" and "waiting" not in main:
        return Wait("")
    # The trainer's container may wait for an injected one (a sidecar, preparation of a volume).
    for item in _waiting_containers(status):
        waiting = item["state"]["waiting"]
        image = _images(spec).get(item["name"]) or str(item.get("image", ""))
        return waits.container(waiting["reason"], waiting.get("message", ""), image)
    if status.get("phase", "Pending") != "Pending":
        return Wait("")
    if conditions.get("PodReadyToStartContainers", {}).get("status") == "False":
        return waits.ITS_PLACE
    return waits.ITS_CONTAINER


def _waiting_containers(status: Json) -> Iterator[Json]:
    """Status of the containers that fail to start."""
    for item in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        if item.get("state", {}).get("waiting", {}).get("reason", "") not in waits.QUIET:
            yield item


def _images(spec: Json) -> dict[str, str]:
    """Image of each container as in the spec: a status may name the resolved image instead."""
    return {
        item["name"]: item.get("image", "") for item in (*spec.get("initContainers", []), *spec.get("containers", []))
    }
