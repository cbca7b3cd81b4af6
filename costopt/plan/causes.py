"""Every cause of a broken attempt: what it counts as, how often it is worth the same attempt again, what would help.

`evidence` finds the cause, `failures` tells it, `restarts` acts on it; this is the one table that they share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from costopt.schema.replica import FailureReason

FailureKind = Literal["NotRetryable", "Disruption", "Failure"]
"""Failure: the job's own doing, counted against maxFailures. Disruption: the platform's, against maxDisruptions.
NotRetryable: the next attempt would end alike."""


@dataclass(frozen=True)
class Cause:
    """One cause."""

    kind: FailureKind
    retries: int | None = None
    """Further attempts that it is worth in one stage, where that is fewer than maxFailures allows. None: no fewer."""
    helps: str = ""
    """What would help, without a full stop; "{more_memory}" is how to get some. Empty: the message says it."""
    helps_variant: str = ""
    """The same where a variant is made. Empty: as above."""


_SMALLER_STEPS = "lower batch.microBatchSize (gradient accumulation keeps the global batch)"
_SMALLER_BATCHES = "lower the micro-batch that it is measured with (recipe.batch.microBatchSize, or in evaluation)"

CAUSES: Mapping[FailureReason, Cause] = {
    # What no restart can mend.
    "InvalidSettings": Cause("NotRetryable"),
    "InvalidData": Cause("NotRetryable"),
    "LossNotFinite": Cause("NotRetryable"),
    "NotStarted": Cause("NotRetryable"),
    "VariantRejected": Cause(
        "NotRetryable",
        helps="loosen its accept, choose other steps, or leave out required",
    ),
    "CannotStart": Cause(
        "NotRetryable", helps="train.image must be made of costopt's trainer image, for the processors of its nodes"
    ),
    # What may happen once by chance, and would soon happen again with the same settings.
    "OutOfMemory": Cause(
        "Failure",
        retries=1,
        helps=f"{{more_memory}}, or {_SMALLER_STEPS}",
        helps_variant=f"{{more_memory}}, for model and variant are held at once, or {_SMALLER_BATCHES}",
    ),
    "DeviceOutOfMemory": Cause(
        "Failure",
        retries=1,
        helps=f"{_SMALLER_STEPS}, train in BF16, or use devices with more memory",
        helps_variant=f"{_SMALLER_BATCHES}, use devices with more memory, or set the variant's target to CPU",
    ),
    "StorageLimitExceeded": Cause(
        "Failure",
        retries=1,
        helps="raise that limit (resourcesPerNode.limits.ephemeral-storage, or sizeLimit of the emptyDir), or write "
        "less to the pod's own disk, such as /tmp",
    ),
    "CommandNotFound": Cause(
        "Failure", retries=1, helps="name programs by their path in the image, and make them executable"
    ),
    # What another attempt may well survive.
    # Nobody can tell from inside a place that is down from one that is misspelt, or that a firewall hides: each attempt
    # holds what it has, so it is bounded as narrowly as a crash.
    "DataUnreachable": Cause("Failure"),
    "CheckpointNotWritable": Cause("Failure"),
    "CheckpointUnreadable": Cause("Failure"),
    "RendezvousFailed": Cause("Failure"),
    "ProcessFailed": Cause("Failure"),
    "ProcessKilled": Cause("Failure"),
    "StartFailed": Cause("Failure"),
    "Stalled": Cause("Failure"),
    "StartupTimedOut": Cause("Failure"),
    "ArtifactMismatch": Cause("Failure"),
    # What the platform did.
    "Preempted": Cause("Disruption"),
    "Evicted": Cause("Disruption"),
    "NodeShutdown": Cause("Disruption"),
    "NodeLost": Cause("Disruption"),
    "Rejected": Cause("Disruption"),
    "PodDeadlineExceeded": Cause("Disruption"),
    "Lost": Cause("Disruption"),
}


def help_for(reason: FailureReason, memory_limit: str, *, variant: bool = False) -> str:
    """What would help against it, in training or where a `variant` is made; empty if its message says that itself."""
    setting = "resources.limits.memory of the variant" if variant else "resourcesPerNode.limits.memory"
    more = f"raise the memory limit of {memory_limit} ({setting})" if memory_limit else "give it more memory"
    cause = CAUSES[reason]
    return ((cause.helps_variant if variant else "") or cause.helps).format(more_memory=more)


def is_spent(reason: FailureReason, times: int) -> bool:
    """Whether a stage that has failed `times` times for this reason is not worth the same attempt again."""
    retries = CAUSES[reason].retries
    return retries is not None and times > retries
