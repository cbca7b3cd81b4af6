"""An attempt as Kubernetes objects: one Indexed Job, one headless Service, one ConfigMap, all of the same name.

Why the Job looks as it does:

* Nothing is retried inside a Job: a gang lives and dies together, and the Job controller delays each replacement of a
  deleted pod longer than the last. Another try is another attempt with a Job of its own. Hence backoffLimit 0,
  restartPolicy Never, and a podFailurePolicy that fails the Job for any pod's end, naming the kind of end.
* spec.suspend is not set: a queue such as Kueue owns it after creation.
* The pods meet the "restricted" Pod Security Standard, and get no token for the API server, which they never call.

References: https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy,
https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

import hashlib
from typing import Any

from costopt import names
from costopt.render.settings import (
    LAUNCHER_MODULE,
    SETTINGS_FILE,
    Surroundings,
    replica_environment,
    replica_settings,
    settings_text,
)
from costopt.schema.base import API_VERSION
from costopt.schema.job import CostOptJob
from costopt.schema.replica import EXIT_NOT_RETRYABLE

Manifest = dict[str, Any]

DEFAULT_IMAGE = "costopt-trainer:0.1.0"
CONTAINER = "trainer"

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
QUEUE_LABEL_PREFIX = "kueue.x-k8s.io/"

SETTINGS_DIR = "/etc/costopt"
STORAGE_ROOT = "/storage"
"""Where the claim is mounted; the job's own storage is a folder below it, so that jobs and data may share a claim."""

GRACE_PERIOD_SECONDS = 120
"""Longest time to save a checkpoint on eviction. Preemption notices of spot nodes last 30 to 120 seconds."""

USER_ID = 65532
"""An unprivileged user, also for images that would start as root; the claim's files belong to the same group."""


def manifests(
    job: CostOptJob, stage: str, attempt: int, *, execution: int = 1, default_image: str = DEFAULT_IMAGE
) -> list[Manifest]:
    """The children of one attempt, in the order in which to create them."""
    labels = child_labels(job, stage, attempt, execution)
    return [
        _config_map(job, stage, attempt, labels),
        _service(job, stage, attempt, labels),
        _indexed_job(job, stage, attempt, labels, default_image),
    ]


def child_labels(job: CostOptJob, stage: str, attempt: int, execution: int) -> dict[str, str]:
    """Labels of every child: whose it is, and which stage, attempt and execution."""
    return {
        **names.MANAGED_BY,
        names.LABEL_JOB: label_value(job.metadata.name),
        names.LABEL_STAGE: stage,
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_EXECUTION: str(execution),
    }


def label_value(name: str) -> str:
    """A name as a label's value: at most 63 characters, shortened with a hash of the whole."""
    if len(name) <= 63:
        return name
    return f"{name[:54].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _metadata(job: CostOptJob, stage: str, attempt: int, labels: dict[str, str]) -> Manifest:
    metadata: Manifest = {"name": names.child_name(job.metadata.name, stage, attempt), "labels": labels}
    if job.metadata.namespace is not None:
        metadata["namespace"] = job.metadata.namespace
    if job.metadata.uid is not None:
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": job.kind,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return metadata


def _config_map(job: CostOptJob, stage: str, attempt: int, labels: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, stage, attempt, labels),
        "immutable": True,
        "data": {SETTINGS_FILE: settings_text(replica_settings(job, stage))},
    }


def _service(job: CostOptJob, stage: str, attempt: int, labels: dict[str, str]) -> Manifest:
    metadata = _metadata(job, stage, attempt, labels)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata, "name": service_name(metadata["name"])},
        "spec": {
            "clusterIP": "None",
            # The gang meets before any of it is ready; names must resolve until then too.
            "publishNotReadyAddresses": True,
            "selector": labels,
            "ports": [{"name": "rendezvous", "port": names.RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }


def service_name(child: str) -> str:
    """The child's headless Service: its own name, which for a Service may not begin with a digit (RFC 1035)."""
    return child if child[0].isalpha() else f"s-{child}"


def _indexed_job(job: CostOptJob, stage: str, attempt: int, labels: dict[str, str], default_image: str) -> Manifest:
    num_replicas = job.spec.num_replicas(stage)
    metadata = _metadata(job, stage, attempt, labels)
    queue_labels = {key: value for key, value in job.metadata.labels.items() if key.startswith(QUEUE_LABEL_PREFIX)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**metadata, "labels": {**queue_labels, **labels}},
        "spec": {
            "completionMode": "Indexed",
            "completions": num_replicas,
            "parallelism": num_replicas,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    _fail_on_exit_code("In", EXIT_NOT_RETRYABLE),
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    _fail_on_exit_code("NotIn", 0),
                ]
            },
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(job, stage, attempt, metadata["name"], default_image),
            },
        },
    }


def _fail_on_exit_code(operator: str, exit_code: int) -> Manifest:
    return {
        "action": "FailJob",
        "onExitCodes": {"containerName": CONTAINER, "operator": operator, "values": [exit_code]},
    }


def _pod(job: CostOptJob, stage: str, attempt: int, child: str, default_image: str) -> Manifest:
    storage: Manifest = {"name": "storage", "emptyDir": {}}
    if job.spec.storage is not None:
        storage = {"name": "storage", "persistentVolumeClaim": {"claimName": job.spec.storage.claim_name}}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_PERIOD_SECONDS,
        "automountServiceAccountToken": False,
        # Else every Service of the namespace adds variables to every pod.
        "enableServiceLinks": False,
        "subdomain": service_name(child),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(job, stage, attempt, child, default_image)],
        "volumes": [
            {"name": "settings", "configMap": {"name": child}},
            storage,
            {"name": "tmp", "emptyDir": {}},
            # Ranks of one node exchange tensors through shared memory, far above the 64 MiB a container gets.
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _container(job: CostOptJob, stage: str, attempt: int, child: str, default_image: str) -> Manifest:
    surroundings = Surroundings(
        settings_file=f"{SETTINGS_DIR}/{SETTINGS_FILE}",
        storage_dir=f"{STORAGE_ROOT}/{job.metadata.name}",
        progress_file="/tmp/costopt-progress.json",  # noqa: S108 -- the pod's own emptyDir
        termination_file="/dev/termination-log",
        rendezvous_host=f"{child}-0.{service_name(child)}",
        rendezvous_port=str(names.RENDEZVOUS_PORT),
    )
    environment = replica_environment(job, stage, attempt, surroundings) | {
        # The user has no entry in the image's passwd, and only /tmp can be written: libraries ask for both.
        "HOME": "/tmp",  # noqa: S108
        "USER": "costopt",
    }
    return {
        "name": CONTAINER,
        "image": job.spec.train.image or default_image,
        "command": ["python", "-m", LAUNCHER_MODULE],
        "env": [
            {
                "name": names.ENV_REPLICA_INDEX,
                "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_ANNOTATION}']"}},
            },
            *({"name": name, "value": value} for name, value in environment.items()),
        ],
        "resources": job.spec.resources_of(stage).to_plain(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "settings", "mountPath": SETTINGS_DIR, "readOnly": True},
            {"name": "storage", "mountPath": STORAGE_ROOT},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
