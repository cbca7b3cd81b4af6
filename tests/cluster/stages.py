"""How kwok plays the kubelet: the life of nodes and pods as kwok `Stage` documents.

A pod's annotation `test.costopt.dev/play`, a JSON list of directions, says what it does; for their fields see
`builders.cluster.Play`. All that match a pod's stage, attempt, execution and completion index apply, later ones win.

    Pending ─▶ (Waiting: never starts) or Running ─▶ Succeeded or Failed
    deleted while Pending or Running ─▶ Failed (143 once it ran, 137 before) ─▶ deletion with no grace left

kwok's own stages remove the finalizers of a deleted pod. These keep them: as with a kubelet, a pod with a foreign
finalizer stays until it is released.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

PLAY_ANNOTATION = "test.costopt.dev/play"

SELECTORS = {
    "stage": "costopt.dev/stage",
    "attempt": "costopt.dev/attempt",
    "execution": "costopt.dev/execution",
    "index": "batch.kubernetes.io/job-completion-index",
}
"""A direction's key -> the pod's label it must equal."""

_JQ_FITS = " and ".join(f'fits("{key}"; "{label}")' for key, label in SELECTORS.items())
_JQ_DIRECTION = (
    "(.metadata.labels // {}) as $labels | "
    "def fits($key; $label): .[$key] == null or (.[$key] | tostring) == $labels[$label]; "
    f'((.metadata.annotations // {{}})["{PLAY_ANNOTATION}"] // "[]" | fromjson | map(select({_JQ_FITS})) | add // {{}})'
)

_TEMPLATE_DIRECTION = (
    "{{ $now := Now }}{{ $pod := . }}{{ $labels := or .metadata.labels dict }}{{ $play := dict }}"
    f'{{{{ range fromJson (or (index (or .metadata.annotations dict) "{PLAY_ANNOTATION}") "[]") }}}}'
    "{{ $fits := true }}{{ $direction := . }}"
    + "".join(
        f'{{{{ if hasKey $direction "{key}" }}}}'
        f'{{{{ if ne (toString (index $direction "{key}")) (toString (index $labels "{label}")) }}}}'
        "{{ $fits = false }}{{ end }}{{ end }}"
        for key, label in SELECTORS.items()
    )
    + "{{ if $fits }}{{ $play = merge (deepCopy $direction) $play }}{{ end }}{{ end }}\n"
)

_RUNNING = """
startTime: {{ $now | Quote }}
phase: Running
{{ $hostIPs := NodeIPsWith .spec.nodeName }}
{{ with $hostIPs }}
hostIP: {{ index . 0 | Quote }}
hostIPs: [{ip: {{ index . 0 | Quote }}}]
{{ end }}
{{ $podIPs := PodIPsWith .spec.nodeName (or .spec.hostNetwork false) .metadata.uid .metadata.name .metadata.namespace }}
{{ with $podIPs }}
podIP: {{ index . 0 | Quote }}
podIPs: [{ip: {{ index . 0 | Quote }}}]
{{ end }}
conditions:
{{ range list "PodReadyToStartContainers" "Initialized" "ContainersReady" "Ready" }}
- {type: {{ . }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
{{ with .spec.initContainers }}
initContainerStatuses:
{{ range . }}
- name: {{ .name }}
  image: {{ .image | Quote }}
  imageID: ""
  containerID: containerd://{{ printf "%s/init/%s" $pod.metadata.uid .name | sha256sum }}
  ready: true
  restartCount: 0
  state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}
{{ end }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name }}
  image: {{ .image | Quote }}
  imageID: ""
  containerID: containerd://{{ printf "%s/%s" $pod.metadata.uid .name | sha256sum }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""

_WAITING = """
startTime: {{ $now | Quote }}
phase: Pending
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ range list "ContainersReady" "Ready" }}
- type: {{ . }}
  status: "False"
  reason: ContainersNotReady
  message: {{ printf "containers with unready status: [%s]" (index $pod.spec.containers 0).name | Quote }}
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: false
  started: false
  restartCount: 0
  state:
    waiting:
      reason: {{ $play.waitingReason }}
      message: {{ or $play.waitingMessage (printf "Back-off pulling image %q" .image) | Quote }}
{{ end }}
"""

# Needs $code (a number), $reason and $message.
_ENDED = """
{{ $phase := ternary "Succeeded" "Failed" (eq $code 0) }}
{{ with $play.podReason }}
reason: {{ . }}
message: {{ or $play.podMessage "" | Quote }}
{{ end }}
{{ $running := dict }}
{{ range .status.containerStatuses }}{{ $_ := set $running .name . }}{{ end }}
phase: {{ $phase }}
conditions:
- {type: PodReadyToStartContainers, status: "False", lastTransitionTime: {{ $now | Quote }}}
{{ range list "ContainersReady" "Ready" }}
- type: {{ . }}
  status: "False"
  reason: {{ ternary "PodCompleted" "PodFailed" (eq $code 0) }}
  message: null
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
{{ $known := or (index $running .name) dict }}
{{ $since := dig "state" "running" "startedAt" "" $known }}
- name: {{ .name }}
  image: {{ .image | Quote }}
  imageID: ""
  {{ with $known.containerID }}
  containerID: {{ . }}
  {{ end }}
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      exitCode: {{ $code }}
      reason: {{ $reason }}
      {{ with $message }}
      message: {{ . | Quote }}
      {{ end }}
      {{ if $since }}
      startedAt: {{ $since | Quote }}
      finishedAt: {{ $now | Quote }}
      {{ end }}
{{ end }}
"""

_END = """
{{ $code := int (or $play.exitCode 0) }}
{{ $reason := or $play.reason (ternary "Completed" "Error" (eq $code 0)) }}
{{ $message := or $play.message "" }}
"""

# A pod that never ran ends as the kubelet writes it when there is no container to ask.
_STOPPED = """
{{ $code := 137 }}{{ $reason := "ContainerStatusUnknown" }}
{{ $message := "The container could not be located when the pod was terminated" }}
{{ if eq .status.phase "Running" }}
{{ $code = int (ternary $play.stopExitCode 143 (hasKey $play "stopExitCode")) }}
{{ $reason = ternary "Completed" "Error" (eq $code 0) }}
{{ $message = or $play.stopMessage $play.message "" }}
{{ end }}
"""

_NODE_READY = """
{{ $now := Now }}
conditions:
{{ range NodeConditions }}
- type: {{ .type }}
  status: {{ .status | Quote }}
  reason: {{ .reason }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
"""

_DELETED = ".metadata.deletionTimestamp != null"
_ACTIVE = '(.status.phase == "Pending" or .status.phase == "Running")'


def write_stages(path: Path) -> Path:
    """Write kwok's configuration: its options, and one document for each stage."""
    options = {
        "podPlayStageParallelism": 32,
        "nodePlayStageParallelism": 4,
        "nodeLeaseParallelism": 4,
        "podsOnNodeSyncParallelism": 4,
    }
    documents: list[dict[str, Any]] = [
        {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options},
        _stage(
            "Node",
            "node-ready",
            'any(.status.conditions[]?; .type == "Ready" and .status == "True") | not',
            _NODE_READY,
        ),
        _pod_stage(
            "pod-waiting", '.waitingReason != null and ($pod.status | has("containerStatuses") | not)', _WAITING
        ),
        _pod_stage("pod-running", ".waitingReason == null", _RUNNING, delay=_seconds("startSeconds", "0")),
        _pod_stage(
            "pod-ended", '.runSeconds != "forever"', _END + _ENDED, phase="Running", delay=_seconds("runSeconds", "1")
        ),
        _stage(
            "Pod",
            "pod-stopped",
            f"{_DELETED} and {_ACTIVE}",
            _TEMPLATE_DIRECTION + _STOPPED + _ENDED,
            delay=f"{_JQ_DIRECTION} | {_seconds('stopSeconds', '0.2')}",
        ),
        _stage("Pod", "pod-deleted", f"{_DELETED} and ({_ACTIVE} | not) and .metadata.deletionGracePeriodSeconds > 0"),
    ]
    path.write_text("\n---\n".join(json.dumps(document) for document in documents), encoding="utf-8")
    return path


def _seconds(key: str, default: str) -> str:
    return f'(.{key} // {default} | tostring) + "s"'


def _pod_stage(name: str, directed: str, status: str, *, phase: str = "Pending", delay: str = "") -> dict[str, Any]:
    """A stage of a pod that is not deleted: in `phase`, and `directed` holds for its direction (it is `$pod`)."""
    in_phase = f'({_DELETED} | not) and .status.phase == "{phase}"'
    condition = f"(. as $pod | {in_phase} and (({_JQ_DIRECTION}) | {directed}))"
    delay = f"{_JQ_DIRECTION} | {delay}" if delay else ""
    return _stage("Pod", name, condition, _TEMPLATE_DIRECTION + status, delay=delay)


def _stage(kind: str, name: str, condition: str, status: str = "", *, delay: str = "") -> dict[str, Any]:
    """A stage for objects for which the jq `condition` is true: patch the status, or with none given delete.

    A patch holds only for the version that was matched. Whenever kwok's watch is cut, as an API server under load does,
    kwok sees pods again as they were a moment ago, and would let them end twice, at another time.
    """
    version = "metadata: {resourceVersion: {{ .metadata.resourceVersion | Quote }}}\n"
    template = f"{version}status:\n{textwrap.indent(status, '  ')}"
    step = {"patch": {"subresource": "status", "template": template}} if status else {"delete": True}
    spec: dict[str, Any] = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": [{"jq": {"key": condition, "operator": "In", "values": ["true"]}}]},
        "steps": [step],
    }
    if delay:
        spec["delay"] = {"durationMilliseconds": 0, "durationFrom": {"jq": {"expression": delay}}}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}
