"""How pods end otherwise than well on a real cluster, and what a user must be told of each."""

from collections.abc import Mapping
from dataclasses import dataclass

from builders.kubelet import UNKNOWN_END, Json, broken_pod, container_end, launcher_end, start_error
from costopt.plan.causes import FailureKind
from costopt.schema.replica import FailureReason


@dataclass(frozen=True)
class Ending:
    """A pod's end, and what a user must be told of it."""

    pod: Json
    reason: FailureReason
    kind: FailureKind
    says: tuple[str, ...]
    """Parts of the message."""


ENDINGS: Mapping[str, Ending] = {
    "the kernel's OOM killer took the container": Ending(
        broken_pod(state=container_end(137, "OOMKilled"), limits={"memory": "16Gi"}),
        "OutOfMemory",
        "Failure",
        (
            "replica 0 of train was killed because memory ran out: the memory limit of its container is 16Gi; ",
            "raise the memory limit of 16Gi (resourcesPerNode.limits.memory), or lower batch.microBatchSize",
        ),
    ),
    "the OOM killer came for a container without a limit": Ending(
        broken_pod(state=container_end(137, "OOMKilled")), "OutOfMemory", "Failure", ("memory ran out on its machine",)
    ),
    "a memory limit too low for the container to start": Ending(
        broken_pod(
            state=start_error("container init was OOM-killed (memory limit too low?)"), limits={"memory": "4Mi"}
        ),
        "OutOfMemory",
        "Failure",
        ("could not start, because its memory limit is too low", "raise the memory limit of 4Mi"),
    ),
    "the launcher's word for a rank that was killed for its memory": Ending(
        broken_pod(
            state=launcher_end(
                reason="OutOfMemory",
                rank=3,
                rankExitCode=-9,
                message="Rank 3 was killed because the replica's memory limit was reached.",
            ),
            limits={"memory": "16Gi"},
        ),
        "OutOfMemory",
        "Failure",
        ("Rank 3 was killed because the replica's memory limit was reached; raise the memory limit of 16Gi",),
    ),
    "a killed rank of which only the container says why": Ending(
        broken_pod(
            state=launcher_end("OOMKilled", reason="ProcessKilled", rank=3, rankExitCode=-9, message="Killed."),
            limits={"memory": "16Gi"},
        ),
        "OutOfMemory",
        "Failure",
        ("rank 3, on replica 0 of train, was killed because memory ran out",),
    ),
    "a GPU out of memory": Ending(
        broken_pod(state=launcher_end(reason="DeviceOutOfMemory", message="CUDA out of memory. Tried 20 GiB.")),
        "DeviceOutOfMemory",
        "Failure",
        ("CUDA out of memory. Tried 20 GiB; lower batch.microBatchSize",),
    ),
    "an eviction for the limit of the pod's own disk": Ending(
        broken_pod(
            state=container_end(137),
            reason="Evicted",
            message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
        ),
        "StorageLimitExceeded",
        "Failure",
        (
            "its own limit: Pod ephemeral local storage usage exceeds the total limit of containers 1Gi; ",
            "raise that limit (resourcesPerNode.limits.ephemeral-storage",
        ),
    ),
    "the same of one container, whose end nobody saw": Ending(
        broken_pod(
            state=UNKNOWN_END,
            reason="Evicted",
            message='Container trainer exceeded its local ephemeral storage limit "1Gi". ',
        ),
        "StorageLimitExceeded",
        "Failure",
        ('Container trainer exceeded its local ephemeral storage limit "1Gi"; raise that limit',),
    ),
    "an eviction for the size limit of an emptyDir, with the time to exit 143": Ending(
        broken_pod(
            state=container_end(143),
            reason="Evicted",
            message='Usage of EmptyDir volume "cache" exceeds the limit "2Gi". ',
        ),
        "StorageLimitExceeded",
        "Failure",
        ('Usage of EmptyDir volume "cache" exceeds the limit "2Gi"', "sizeLimit of the emptyDir"),
    ),
    "an eviction because the node ran low": Ending(
        broken_pod(
            state=container_end(137),
            reason="Evicted",
            message="The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. Container "
            "trainer was using 3Gi, request is 1Gi, has larger consumption of memory. ",
            disruption=("TerminationByKubelet", "The node was low on resource: memory. "),
        ),
        "Evicted",
        "Disruption",
        ("replica 0 of train was evicted by its node: The node was low on resource: memory.", "request is 1Gi"),
    ),
    "a preemption by the scheduler": Ending(
        broken_pod(
            state=container_end(143),
            disruption=("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
        ),
        "Preempted",
        "Disruption",
        ("was preempted by the scheduler for a pod of higher priority", "default-scheduler: preempting"),
    ),
    "a preemption by the kubelet": Ending(
        broken_pod(
            state=container_end(137),
            reason="Preempting",
            message="Preempted in order to admit critical pod",
            disruption=("TerminationByKubelet", "Pod was preempted by Kubelet to accommodate a critical pod."),
        ),
        "Preempted",
        "Disruption",
        ("ended by its node to make room for a critical pod",),
    ),
    "a taint on the node": Ending(
        broken_pod(
            state=container_end(143),
            disruption=("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
        ),
        "Evicted",
        "Disruption",
        ("deleted because of a NoExecute taint on its node",),
    ),
    "a drain": Ending(
        broken_pod(state=container_end(143), disruption=("EvictionByEvictionAPI", "Eviction API: evicting")),
        "Evicted",
        "Disruption",
        ("evicted through the eviction API, as when a node is drained",),
    ),
    "a node that shuts down": Ending(
        broken_pod(
            state=container_end(143),
            reason="Terminated",
            message="Pod was terminated in response to imminent node shutdown.",
            disruption=("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown."),
        ),
        "NodeShutdown",
        "Disruption",
        ("because its node shuts down",),
    ),
    "a node that is gone": Ending(
        broken_pod(state=UNKNOWN_END, disruption=("DeletionByPodGC", "PodGC: node no longer exists")),
        "NodeLost",
        "Disruption",
        ("was on a node that does not exist any more: PodGC: node no longer exists",),
    ),
    "a disruption that nobody has heard of yet": Ending(
        broken_pod(state=container_end(137), disruption=("DeletionByTomorrow", "made room")),
        "Preempted",
        "Disruption",
        ("was ended by the platform: DeletionByTomorrow: made room",),
    ),
    "the deadline of a pod": Ending(
        broken_pod(
            state=container_end(137),
            reason="DeadlineExceeded",
            message="Pod was active on the node longer than the specified deadline",
        ),
        "PodDeadlineExceeded",
        "Disruption",
        ("activeDeadlineSeconds of the pod",),
    ),
    "a device that its node could not hand out": Ending(
        broken_pod(
            reason="UnexpectedAdmissionError",
            message="Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy "
            "devices nvidia.com/gpu, which is unexpected",
        ),
        "Rejected",
        "Disruption",
        ("refused by the node it was placed on (UnexpectedAdmissionError): Allocate failed due to no healthy devices",),
    ),
    "a node that had no room after all": Ending(
        broken_pod(reason="OutOfcpu", message="Pod was rejected: Node didn't have enough resource: cpu"),
        "Rejected",
        "Disruption",
        ("(OutOfcpu): Node didn't have enough resource: cpu",),
    ),
    "a container whose end its node does not know": Ending(
        broken_pod(state=UNKNOWN_END),
        "Lost",
        "Disruption",
        ("its node does not know any more how its container ended",),
    ),
    "an image without python": Ending(
        broken_pod(
            state=start_error(
                "runc create failed: unable to start container process: "
                'exec: "python": executable file not found in $PATH: unknown'
            )
        ),
        "CannotStart",
        "NotRetryable",
        ("could not be started", '"python": executable file not found in $PATH', "train.image must"),
    ),
    "a volume that went away before the start": Ending(
        broken_pod(state=start_error('error mounting "/var/lib/x" to rootfs at "/x": no such file or directory')),
        "StartFailed",
        "Failure",
        ("could not be started", "no such file or directory"),
    ),
    "a container that its runtime could not start this time": Ending(
        broken_pod(state=start_error("nvidia-container-cli: initialization error: nvml error: driver not loaded")),
        "StartFailed",
        "Failure",
        ("nvml error: driver not loaded",),
    ),
    "exit code 127": Ending(
        broken_pod(state=container_end(127)),
        "CommandNotFound",
        "Failure",
        ("exit code 127: a command or shared library was not found; name programs by their path",),
    ),
    "exit code 126": Ending(
        broken_pod(state=container_end(126)), "CommandNotFound", "Failure", ("a command could not be executed",)
    ),
    "exit code 128 without a word": Ending(
        broken_pod(state=container_end(128)), "StartFailed", "Failure", ("a container does that cannot be started",)
    ),
    "SIGKILL by nobody knows whom": Ending(
        broken_pod(state=container_end(137)),
        "ProcessKilled",
        "Failure",
        ("replica 0 of train was killed by SIGKILL (exit code 137); unless somebody did it by hand, memory ran out",),
    ),
    "SIGBUS": Ending(
        broken_pod(state=container_end(135)), "ProcessFailed", "Failure", ("died of SIGBUS", "a full /dev/shm")
    ),
    "SIGSEGV": Ending(
        broken_pod(state=container_end(139)),
        "ProcessFailed",
        "Failure",
        ("died of SIGSEGV (exit code 139)", "extension"),
    ),
    "SIGABRT": Ending(broken_pod(state=container_end(134)), "ProcessFailed", "Failure", ("died of SIGABRT",)),
    "SIGILL": Ending(broken_pod(state=container_end(132)), "ProcessFailed", "Failure", ("died of SIGILL",)),
    "a rank that died of SIGBUS": Ending(
        broken_pod(
            state=launcher_end(reason="ProcessFailed", rank=2, rankExitCode=-7, message="Rank 2 died of SIGBUS.")
        ),
        "ProcessFailed",
        "Failure",
        ("Rank 2 died of SIGBUS; the usual cause is a full /dev/shm",),
    ),
    "words that are not ours in the termination message": Ending(
        broken_pod(state=container_end(3, message="\x1b[31mno such\u202e table\x1b[0m\x07\nsecond line")),
        "ProcessFailed",
        "Failure",
        ("replica 0 of train ended with exit code 3: no such table second line",),
    ),
}
"""Linux' numbers of signals: 7 is SIGBUS."""
