"""Every name that two rooms must agree on: labels, environment variables, files, child names. One place each."""

import hashlib

TRAIN_STAGE = "train"

# Labels on every child.
LABEL_JOB = "costopt.dev/job"
LABEL_JOB_UID = "costopt.dev/job-uid"
"""Tells apart two jobs of one name, the second made after the first was deleted."""
LABEL_STAGE = "costopt.dev/stage"
LABEL_ATTEMPT = "costopt.dev/attempt"
LABEL_EXECUTION = "costopt.dev/execution"
MANAGED_BY = {"app.kubernetes.io/managed-by": "costopt"}
MANAGED_BY_SELECTOR = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
"""Selects everything that costopt created, as text for a list or watch request."""

USAGE_FINALIZER = "costopt.dev/usage"
"""On every pod; released once the pod's usage record is in the job's status, so that none is lost with its pod."""
FIELD_MANAGER = "costopt"
"""Whose fields they are in server-side apply."""

QUEUE_NAME_LABEL = "kueue.x-k8s.io/queue-name"
"""On a job: the queue that admits it."""
QUEUE_PREFIX = "kueue.x-k8s.io/"
"""Labels and annotations of a job that begin so are copied to its batch Jobs."""

# Environment of a replica (what the launcher reads).
ENV_SETTINGS_FILE = "COSTOPT_SETTINGS_FILE"
ENV_STORAGE_DIR = "COSTOPT_STORAGE_DIR"
ENV_ATTEMPT = "COSTOPT_ATTEMPT"
ENV_REPLICA_INDEX = "COSTOPT_REPLICA_INDEX"
ENV_RENDEZVOUS_HOST = "COSTOPT_RENDEZVOUS_HOST"
ENV_RENDEZVOUS_PORT = "COSTOPT_RENDEZVOUS_PORT"
ENV_PROGRESS_FILE = "COSTOPT_PROGRESS_FILE"
ENV_TERMINATION_FILE = "COSTOPT_TERMINATION_FILE"
ENV_LIFELINE_FD = "COSTOPT_LIFELINE_FD"
"""A pipe held open by whoever started the launcher; its end says that they are gone."""
ENV_REPLICA_UID = "COSTOPT_REPLICA_UID"
"""On one machine: marks every process of a replica, so that none can be missed when it is ended."""
ENV_LAUNCHER_STARTED = "COSTOPT_LAUNCHER_STARTED"
"""For ranks: when the launcher began, in nanoseconds of Unix time. Start-up counts from then."""
ENV_LAUNCHER_PID = "COSTOPT_LAUNCHER_PID"
"""For ranks: the launcher they end with."""

RESERVED_ENVIRONMENT = frozenset(
    {
        ENV_LIFELINE_FD,
        ENV_LAUNCHER_PID,
        ENV_LAUNCHER_STARTED,
        ENV_REPLICA_UID,
        ENV_SETTINGS_FILE,
        ENV_STORAGE_DIR,
        ENV_ATTEMPT,
        ENV_REPLICA_INDEX,
        ENV_RENDEZVOUS_HOST,
        ENV_RENDEZVOUS_PORT,
        ENV_PROGRESS_FILE,
        ENV_TERMINATION_FILE,
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "ROLE_NAME",
        "ROLE_RANK",
        "ROLE_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    }
)
"""Set by us for every replica or rank; a user may not set them."""

RESERVED_ENVIRONMENT_PREFIXES = ("COSTOPT_", "PET_", "TORCHELASTIC_")
"""Likewise whatever begins so: torch's launcher would read PET_*, and sets TORCHELASTIC_* for its ranks."""
RESERVED_LABEL_PREFIXES = ("costopt.dev/", "batch.kubernetes.io/")
RESERVED_LABELS = ("app.kubernetes.io/managed-by", "controller-uid", "job-name")
"""Set by us or by the Job controller on every pod; a user may not set them."""
RESERVED_VOLUMES = ("settings", "storage", "tmp", "shm")

SETTINGS_MOUNT = "/etc/costopt"
STORAGE_MOUNT = "/storage"
"""Where the claim is mounted; the job's own storage is a folder below it, so that jobs and data may share a claim."""
RESERVED_MOUNTS = (SETTINGS_MOUNT, STORAGE_MOUNT, "/tmp", "/dev", "/proc", "/sys")  # noqa: S108 -- the pod's own
"""Paths in a pod that are ours or the node's; nothing of a user's may be mounted at, below or above them."""

RENDEZVOUS_PORT = 29400

# Layout of a job's storage (a claim in a cluster, the run folder on one machine).
CHECKPOINTS_DIR = "checkpoints"
ARTIFACTS_DIR = "artifacts"
CACHE_DIR = "cache"
METRICS_FILE = "metrics.jsonl"
MODEL_DIR = "model"
"""Below ARTIFACTS_DIR: the trained, uncompressed model."""
REPORT_FILE = "report.json"
"""In a variant's artifact folder: its VariantStatus."""

MAX_CHILD_NAME = 52
"""A pod of an Indexed Job is named <job>-<index>-<5 random>, and its host name <job>-<index> is at most 63."""


def child_name(job_name: str, stage: str, attempt: int) -> str:
    """Name of a stage's attempt: `<job>-<stage>-a<attempt>`, shortened with a hash of the job's name if it must be."""
    return _shortened(job_name, f"-{stage}-a{attempt}")


def job_wide_name(job_name: str) -> str:
    """Name of what a job has one of, such as its NetworkPolicy: the job's own, shortened with a hash if it must be."""
    return _shortened(job_name, "")


def storage_claim_name(job_name: str) -> str:
    """Name of the claim that `storage.create` makes: `<job>-storage`, shortened likewise."""
    return _shortened(job_name, "-storage")


def _shortened(job_name: str, suffix: str) -> str:
    label = job_name.replace(".", "-")
    if len(label) + len(suffix) <= MAX_CHILD_NAME and label == job_name:
        return label + suffix
    digest = hashlib.sha256(job_name.encode()).hexdigest()[:8]
    return f"{label[: MAX_CHILD_NAME - len(suffix) - 9].rstrip('-')}-{digest}{suffix}"
