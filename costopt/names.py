"""Every name that two rooms must agree on: labels, environment variables, files, child names. One place each."""

import hashlib
import re

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
"""For ranks: when the launcher began, or the ranks before them ended, in nanoseconds of the monotonic clock. Start-up
counts from then."""
ENV_EARLIER_ROUNDS = "COSTOPT_EARLIER_ROUNDS"
"""For ranks that were started anew in place: what became of those before them, as JSON."""
ENV_HEARTBEAT_FILE = "COSTOPT_HEARTBEAT_FILE"
"""For ranks: where they leave signs of work."""
ENV_LAUNCHER_PID = "COSTOPT_LAUNCHER_PID"
"""For ranks: the launcher they end with."""
ENV_JOB_UID = "COSTOPT_JOB_UID"
"""The job's uid, for what is written down of an artifact; empty on one machine."""

RESERVED_ENVIRONMENT = frozenset(
    {
        ENV_LIFELINE_FD,
        ENV_LAUNCHER_PID,
        ENV_LAUNCHER_STARTED,
        ENV_EARLIER_ROUNDS,
        ENV_HEARTBEAT_FILE,
        ENV_JOB_UID,
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
COPIES_DIR, COMPILED_DIR, HUB_DIR = "copies", "compile", "hugging-face"
"""Below CACHE_DIR: copies of remote files, compiled code, models of the hub."""
METRICS_FILE = "metrics.jsonl"
STORAGE_MARK = ".costopt-storage"
"""In every job's storage, from its beginning: a search for data passes over all of it."""
# In a run folder only:
REPLICAS_DIR = "replicas"
LOGS_DIR = "logs"
JOB_FILE = "job.json"
STATUS_FILE = "status.json"
LEDGER_FILE = "ledger.jsonl"
RUN_LOCK_FILE = "lock"
MODEL_DIR = "model"
ADAPTER_DIR = "adapter"
"""Below ARTIFACTS_DIR: the trained, uncompressed model."""
REJECTED_DIR = "rejected"
"""Below ARTIFACTS_DIR: variants that were made and not accepted, to look at."""
REPORT_FILE = "report.json"
"""In a variant's artifact folder: its VariantStatus."""
MANIFEST_FILE = "manifest.json"
"""In every artifact's folder: its ArtifactManifest."""

MAX_CHILD_NAME = 52
"""A pod of an Indexed Job is named <job>-<index>-<5 random>, and its host name <job>-<index> is at most 63."""

# No two children of a kind share a name, whichever jobs and stages they are of. A name is read from its right: when the
# attempt (or a fixed word) is taken off, its last part is either a digest, which stands for the job and the stage as a
# whole, or a stage, which is no digest and has no '-', and then what is left is the job's name.
_DIGEST = re.compile(r"[0-9a-f]{10}")


def child_name(job_name: str, stage: str, attempt: int) -> str:
    """Name of a stage's attempt: `<job>-<stage>-a<attempt>`, or with a digest of job and stage in it where that would
    be too long, or could be read in two ways."""
    plain = f"{job_name}-{stage}-a{attempt}"
    if "." not in job_name and "-" not in stage and not _DIGEST.fullmatch(stage) and len(plain) <= MAX_CHILD_NAME:
        return plain
    return _digested(f"{job_name}-{stage}", f"{job_name}/{stage}", f"-a{attempt}")


def service_name(job_name: str, stage: str, attempt: int) -> str:
    """Name of an attempt's headless Service: the attempt's own, if it does not begin with a digit (RFC 1035)."""
    child = child_name(job_name, stage, attempt)
    if child[0].isalpha():
        return child
    return _digested(f"s-{job_name}-{stage}", f"{job_name}/{stage}", f"-a{attempt}")


def network_policy_name(job_name: str) -> str:
    """Name of the job's NetworkPolicy: `<job>-peers`, or with a digest likewise."""
    return _job_wide_name(job_name, "peers")


def storage_claim_name(job_name: str) -> str:
    """Name of the claim that `storage.create` makes: `<job>-storage`, or with a digest likewise."""
    return _job_wide_name(job_name, "storage")


def _job_wide_name(job_name: str, word: str) -> str:
    plain = f"{job_name}-{word}"
    looks_digested = _DIGEST.fullmatch(job_name.rpartition("-")[2])
    if "." not in job_name and not looks_digested and len(plain) <= MAX_CHILD_NAME:
        return plain
    return _digested(job_name, job_name, f"-{word}")


def _digested(for_people: str, whole: str, suffix: str) -> str:
    digest = hashlib.sha256(whole.encode()).hexdigest()[:10]
    room = MAX_CHILD_NAME - len(suffix) - len(digest) - 1
    return f"{for_people.replace('.', '-')[:room].rstrip('-')}-{digest}{suffix}"


def variant_folders(variant: str) -> tuple[str, str]:
    """Below a job's storage: where a variant lies if it was accepted, and if it was rejected. One of the two exists."""
    return f"{ARTIFACTS_DIR}/{variant}", f"{ARTIFACTS_DIR}/{REJECTED_DIR}/{variant}"


def own_metric_result(metric: str) -> str:
    """Name, among the results of an evaluation, of a metric of the model's own."""
    return f"validationOwn{metric[0].upper()}{metric[1:]}PerSample"


def of_source(result: str, source: str) -> str:
    """Name, among the results of an evaluation, of a result of one source of a mixture."""
    return f"{result}.{source}"


def own_metric_of(result: str) -> str | None:
    """The metric of the model's own that a result is of, in words such as "words right"; None of any other result."""
    found = re.fullmatch(r"validationOwn([A-Z][A-Za-z0-9]*)PerSample", result)
    return None if found is None else in_words(found[1][0].lower() + found[1][1:])


def in_words(name: str) -> str:
    """wordsRight -> words right; ofAWord -> of a word."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).lower()
