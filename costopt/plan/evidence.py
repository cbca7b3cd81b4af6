"""What was written down about a replica's end by others than itself -> its cause, in the user's words.

    the pod's own doing -> why its node or a controller ended it -> its container's reason -> signal -> exit code

Each step is a table. The words are those of Kubernetes 1.34: pkg/kubelet/eviction/helpers.go, pkg/kubelet/lifecycle,
pkg/kubelet/nodeshutdown, pkg/controller/{podgc,tainteviction}, and of containerd 1.7 (pkg/cri/server).
"""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from costopt.plan.foreign_text import one_line
from costopt.schema.replica import FailureReason

WORDS_LIMIT = 600
"""Characters kept of one message of the platform."""
REASON_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Evidence:
    """One line of text each, safe to show; empty where nothing was said."""

    container_reason: str = ""
    """Such as OOMKilled."""
    container_message: str = ""
    """Why the container could not start, or what was left in its termination message that is not ours."""
    signal: int | None = None
    """Signal that ended the container, where its runtime says so."""
    pod_reason: str = ""
    """Such as Evicted."""
    pod_message: str = ""
    disruption_reason: str = ""
    """Reason of the condition DisruptionTarget, if that is True."""
    disruption_message: str = ""
    memory_limit: str = ""
    """Memory limit of the container, as written in the pod."""


NOTHING = Evidence()
OUT_OF_MEMORY = Evidence(container_reason="OOMKilled")
"""What is known on one machine of a launcher that the kernel killed because memory ran out."""


@dataclass(frozen=True)
class Sign:
    """What a sign means; "{who}" is the replica, "{words}" what was said, ": " before it, if anything was."""

    reason: FailureReason
    sentence: str


@dataclass(frozen=True)
class Finding:
    """A cause found."""

    reason: FailureReason
    sentence: str
    named: bool = False
    """Somebody said why; else only that."""


_OWN_DOING = re.compile(
    r"exceeded its local ephemeral storage limit|ephemeral local storage usage exceeds"
    r"|Usage of EmptyDir volume .* exceeds"
)
"""Evictions for what the pod alone did; others are for the state of its node."""

_SCRATCH = Sign("StorageLimitExceeded", "{who} was evicted for using more of the node's disk than its own limit{words}")
_EVICTED = Sign("Evicted", "{who} was evicted by its node{words}")
_SHUTDOWN = Sign("NodeShutdown", "{who} was ended because its node shuts down{words}")
_REJECTED = Sign("Rejected", "{who} was refused by the node it was placed on ({reason}){words}")
_UNNAMED = Sign("Preempted", "{who} was ended by the platform{words}")

POD_REASONS: Mapping[str, Sign] = {
    "Evicted": _EVICTED,
    "Preempting": Sign("Preempted", "{who} was ended by its node to make room for a critical pod{words}"),
    "NodeLost": Sign("NodeLost", "{who} was on a node that does not answer any more{words}"),
    "NodeShutdown": _SHUTDOWN,
    "Shutdown": _SHUTDOWN,
    "Terminated": _SHUTDOWN,
    "DeadlineExceeded": Sign(
        "PodDeadlineExceeded", "{who} ran for as long as the cluster allows a pod (activeDeadlineSeconds of the pod)"
    ),
}
"""`status.reason` of a pod that was ended."""

REJECTIONS = frozenset(
    {
        "AppArmor",
        "InitContainerRestartPolicyForbidden",
        "InvalidNodeInfo",
        "NodeAffinity",
        "NodeName",
        "NodePorts",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "SupplementalGroupsPolicyNotSupported",
        "SysctlForbidden",
        "TaintToleration",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
        "UnexpectedPredicateFailureType",
        "UnknownReason",
        "VolumeAttachmentLimitExceeded",
    }
)
"""`status.reason` of a pod that its node did not admit; also OutOfcpu and the like."""

DISRUPTIONS: Mapping[str, Sign] = {
    "PreemptionByScheduler": Sign(
        "Preempted", "{who} was preempted by the scheduler for a pod of higher priority (pods.priorityClassName){words}"
    ),
    "DeletionByTaintManager": Sign("Evicted", "{who} was deleted because of a NoExecute taint on its node{words}"),
    "DeletionByDeviceTaintManager": Sign(
        "Evicted", "{who} was deleted because of a taint on one of its devices{words}"
    ),
    "EvictionByEvictionAPI": Sign("Evicted", "{who} was evicted through the eviction API, as when a node is drained"),
    "DeletionByPodGC": Sign("NodeLost", "{who} was on a node that does not exist any more{words}"),
    "TerminationByKubelet": Sign("Evicted", "{who} was ended by its node{words}"),
}
"""Reasons of the condition DisruptionTarget."""

_UNSEEN = "ContainerStatusUnknown"
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "CreateContainerError", "RunContainerError"})
_START_ERRORS: tuple[tuple[re.Pattern[str], Sign], ...] = (
    (
        re.compile(r"OOM-killed"),
        Sign("OutOfMemory", "{who} could not start, because its memory limit is too low even for that{words}"),
    ),
    (
        re.compile(
            r"\bexec:? .*(executable file not found|format error|permission denied|no such file|is a directory)"
        ),
        Sign("CannotStart", "the container of {who} could not be started{words}"),
    ),
    (re.compile(""), Sign("StartFailed", "the container of {who} could not be started{words}")),
)

_EXIT_CODES: Mapping[int, Sign] = {
    126: Sign("CommandNotFound", "{who} ended with exit code 126: a command could not be executed{words}"),
    127: Sign("CommandNotFound", "{who} ended with exit code 127: a command or shared library was not found{words}"),
    128: Sign("StartFailed", "{who} ended with exit code 128, as a container does that cannot be started{words}"),
}

SIGNAL_HELP: Mapping[str, str] = {
    "SIGKILL": "unless somebody did it by hand, memory ran out on its node: ask for as much as it uses",
    "SIGBUS": "the usual cause is a full /dev/shm, through which PyTorch's DataLoader workers hand over samples: use "
    "fewer num_workers, or make room (a pod's memory limit, docker's --shm-size)",
    "SIGSEGV": "the usual cause is native code, such as an extension built for another version of PyTorch or CUDA",
    "SIGABRT": "native code gave up: the lines before it in the log say why",
    "SIGILL": "a library was built for another processor",
    "SIGFPE": "native code divided by zero",
}
"""What a signal usually comes from, and what would help."""
_KILLED_FROM_OUTSIDE = frozenset({"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"})


def is_own_doing(evidence: Evidence) -> bool:
    """Its node ended it, but only for what it did itself: no other node would have kept it."""
    return evidence.pod_reason == "Evicted" and _OWN_DOING.search(evidence.pod_message) is not None


def is_disruption(evidence: Evidence) -> bool:
    """The platform says that it ended the replica, for reasons of its own."""
    if is_own_doing(evidence):
        return False
    return bool(evidence.disruption_reason) or evidence.pod_reason in POD_REASONS


def says_out_of_memory(evidence: Evidence) -> bool:
    """The kernel killed a process of the container because memory ran out."""
    return evidence.container_reason == OUT_OF_MEMORY.container_reason


def is_rejection(evidence: Evidence) -> bool:
    """Its node did not admit the pod; it never ran."""
    reason = evidence.pod_reason
    rejected = reason in REJECTIONS or reason.startswith("OutOf")
    return rejected or (bool(reason) and evidence.pod_message.startswith("Pod was rejected"))


def why_the_platform_ended_it(evidence: Evidence, who: str, code: int | None) -> Finding:
    """Why the platform ended a replica, as it reports itself."""
    if sign := POD_REASONS.get(evidence.pod_reason):
        return _found(sign, evidence, who, evidence.pod_message)
    words = evidence.disruption_message
    if sign := DISRUPTIONS.get(evidence.disruption_reason):
        return _found(sign, evidence, who, words)
    if evidence.disruption_reason:
        words = f"{evidence.disruption_reason}: {words}" if words else evidence.disruption_reason
        return _found(_UNNAMED, evidence, who, words)
    with_code = "" if code is None else f" with exit code {code}"
    return Finding(_UNNAMED.reason, f"{who} was ended by the platform{with_code}")


def why_it_ended(evidence: Evidence, who: str, code: int | None) -> Finding:
    """Why a replica ended that did not say so itself."""
    if is_own_doing(evidence):
        return _found(_SCRATCH, evidence, who, evidence.pod_message)
    if code is None:
        return _why_unseen(evidence, who)
    if says_out_of_memory(evidence):
        return Finding("OutOfMemory", f"{who} was killed because {out_of_memory_words(evidence)}")
    words = evidence.container_message
    if evidence.container_reason in _NOT_STARTED:
        sign = next(sign for pattern, sign in _START_ERRORS if pattern.search(words))
        return _found(sign, evidence, who, words)
    if name := signal_of(code, evidence.signal):
        reason: FailureReason = "ProcessKilled" if name in _KILLED_FROM_OUTSIDE else "ProcessFailed"
        return _found(Sign(reason, f"{{who}} {died_of(name)} (exit code {code}){{words}}"), evidence, who, words)
    sign = _EXIT_CODES.get(code, Sign("ProcessFailed", f"{{who}} ended with exit code {code}{{words}}"))
    return _found(sign, evidence, who, words)


def out_of_memory_words(evidence: Evidence) -> str:
    """What ran out, as far as is known."""
    if evidence.memory_limit:
        return f"memory ran out: the memory limit of its container is {evidence.memory_limit}"
    return "memory ran out on its machine"


def died_of(name: str) -> str:
    """What a signal of that name did."""
    return f"was killed by {name}" if name in _KILLED_FROM_OUTSIDE else f"died of {name}"


def signal_of(code: int | None, told: int | None = None) -> str:
    """Name of the signal that an exit code tells of (-9 and 137 are SIGKILL) or that was `told`; empty if of none."""
    number = told or (-code if code is not None and code < 0 else code - 128 if code is not None and code > 128 else 0)
    try:
        return signal.Signals(number).name if number else ""
    except ValueError:
        return f"signal {number}" if told or (code is not None and code < 0) else ""


def _why_unseen(evidence: Evidence, who: str) -> Finding:
    if is_rejection(evidence):
        return _found(_REJECTED, evidence, who, evidence.pod_message.removeprefix("Pod was rejected: "))
    if evidence.container_reason == _UNSEEN:
        return Finding("Lost", f"{who} ended unseen: its node does not know any more how its container ended")
    words = ": ".join(filter(None, (evidence.pod_reason, evidence.pod_message)))
    if words:
        return Finding("Lost", f"{who} ended unseen: {words}")
    return Finding("Lost", f"{who} ended unseen: its machine or its supervisor was lost")


def _found(sign: Sign, evidence: Evidence, who: str, words: str) -> Finding:
    said = f": {one_line(words, WORDS_LIMIT).rstrip(' .')}" if words else ""
    return Finding(sign.reason, sign.sentence.format(who=who, words=said, reason=evidence.pod_reason), named=True)
