"""The pod of a replica, as the template of its Job: ours first, then what spec.pods adds to it.

The pods meet the "restricted" Pod Security Standard and get no token for the API server, which they never call. The
schema rejects everything in spec.pods that conflicts with what is set here, so only merging is left to do.

References: https://kubernetes.io/docs/concepts/security/pod-security-standards/,
https://docs.pytorch.org/docs/stable/torch_nccl_environment_variables.html
"""

from costopt import names
from costopt.isolation import FLAGS
from costopt.render.labels import Manifest, child_labels
from costopt.render.processes import LOOPBACK
from costopt.render.settings import LAUNCHER_MODULE, Surroundings, replica_environment
from costopt.schema.job import CostOptJob
from costopt.schema.pods import PodOverrides

CONTAINER = "trainer"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"

USER_ID = 65532
"""An unprivileged user, also for images that start as root; the claim's files belong to the same group."""

DEFAULT_ENVIRONMENT = {
    # The user has no entry in the image's passwd, and only /tmp is writable: libraries need both.
    "HOME": "/tmp",  # noqa: S108 -- the pod's own
    "USER": "costopt",
    # A collective that fails or hangs ends its rank, and with it the gang, instead of waiting forever: torch's default,
    # unless an image changes it.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    # Flight recorder: the last 2,000 collectives of each rank, written when one of them times out.
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "TORCH_FR_DUMP_TEMP_FILE": "/tmp/costopt-flight-recorder-rank-",  # noqa: S108 -- followed by the rank
    "NCCL_DEBUG": "WARN",
}
"""A user may replace these. torch before 2.9 calls the recorder's variables TORCH_NCCL_TRACE_BUFFER_SIZE and
TORCH_NCCL_DEBUG_INFO_TEMP_FILE; newer ones warn when they see the old names."""


def settings_key(stage: str) -> str:
    """The stage's key in the ConfigMap, and its file's name in the pod."""
    return f"{stage}.json"


def claim_name(job: CostOptJob) -> str | None:
    """The claim with the job's storage; None without one."""
    storage = job.spec.storage
    if storage is None:
        return None
    return storage.claim_name or names.storage_claim_name(job.metadata.name)


def pod_template(
    job: CostOptJob, stage: str, attempt: int, *, execution: int, config_map: str, default_image: str
) -> Manifest:
    """The pod template of an attempt; its settings are in the ConfigMap named `config_map`."""
    pods = job.spec.pods or PodOverrides()
    metadata: Manifest = {
        "labels": {**pods.labels, **child_labels(job, stage, attempt, execution)},
        "finalizers": [names.USAGE_FINALIZER],
    }
    if pods.annotations:
        metadata["annotations"] = dict(pods.annotations)
    return {
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": pods.termination_grace_period_seconds,
            "automountServiceAccountToken": False,
            # Else every Service of the namespace adds variables to every pod.
            "enableServiceLinks": False,
            **_rendezvous_name(job, stage, attempt),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **_placement(pods, on_cpu=job.spec.on_cpu(stage)),
            "containers": [_container(job, stage, attempt, pods, default_image)],
            "volumes": _volumes(job, pods, config_map),
        },
    }


def is_gang(job: CostOptJob, stage: str) -> bool:
    """Whether the stage has several replicas, which must find each other."""
    return job.spec.num_replicas(stage) > 1


def _rendezvous_name(job: CostOptJob, stage: str, attempt: int) -> Manifest:
    if not is_gang(job, stage):
        return {}
    return {"subdomain": names.service_name(job.metadata.name, stage, attempt)}


OF_GPU_NODES = "nvidia.com/"
"""How labels begin that only nodes with a GPU have: its operator's device plugin and feature discovery set them."""


def _placement(pods: PodOverrides, *, on_cpu: bool) -> Manifest:
    """Where and with which identity the pods run, as spec.pods says; those for a CPU also where there is no GPU.

    Tolerations stay: they permit nodes and demand none, and a cluster may have no others. Nobody can tell what an
    affinity, a runtime class or any other label is for.
    """
    selector = pods.node_selector
    wanted = {
        "nodeSelector": {label: value for label, value in selector.items() if not label.startswith(OF_GPU_NODES)}
        if on_cpu
        else selector,
        "tolerations": [_toleration(one.to_plain()) for one in pods.tolerations],
        "affinity": pods.affinity,
        "priorityClassName": pods.priority_class_name,
        "schedulerName": pods.scheduler_name,
        "runtimeClassName": pods.runtime_class_name,
        "serviceAccountName": pods.service_account_name,
        "imagePullSecrets": [secret.to_plain() for secret in pods.image_pull_secrets],
    }
    return {field: value for field, value in wanted.items() if value}


def _toleration(plain: Manifest) -> Manifest:
    return {field: value for field, value in plain.items() if value != ""}


def _volumes(job: CostOptJob, pods: PodOverrides, config_map: str) -> list[Manifest]:
    claim = claim_name(job)
    return [
        {"name": "settings", "configMap": {"name": config_map}},
        {"name": "storage", **({"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}})},
        {"name": "tmp", "emptyDir": {}},
        # Ranks of one node exchange tensors through shared memory, far above the 64 MiB a container gets.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *(volume.to_plain() for volume in pods.volumes),
    ]


def _environment(job: CostOptJob, stage: str, attempt: int, pods: PodOverrides) -> list[Manifest]:
    """Ours, then the defaults that the user did not replace, then the user's."""
    child = names.child_name(job.metadata.name, stage, attempt)
    service = names.service_name(job.metadata.name, stage, attempt)
    surroundings = Surroundings(
        settings_file=f"{names.SETTINGS_MOUNT}/{settings_key(stage)}",
        storage_dir=f"{names.STORAGE_MOUNT}/{job.metadata.name}",
        progress_file="/tmp/costopt-progress.json",  # noqa: S108 -- the pod's own emptyDir
        termination_file="/dev/termination-log",
        rendezvous_host=f"{child}-0.{service}" if is_gang(job, stage) else LOOPBACK,
        rendezvous_port=str(names.RENDEZVOUS_PORT),
    )
    ours = replica_environment(job, stage, attempt, surroundings) | DEFAULT_ENVIRONMENT
    users = {variable.name: variable.to_plain() for variable in pods.env}
    return [
        {
            "name": names.ENV_REPLICA_INDEX,
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_ANNOTATION}']"}},
        },
        *({"name": name, "value": value} for name, value in ours.items() if name not in users),
        *users.values(),
    ]


def _container(job: CostOptJob, stage: str, attempt: int, pods: PodOverrides, default_image: str) -> Manifest:
    return {
        "name": CONTAINER,
        "image": job.spec.image or default_image,
        # The working directory may be a claim that others write to: the launcher imports no module from there.
        "command": ["python", *FLAGS, "-m", LAUNCHER_MODULE],
        # Relative data paths start at the claim. A command starts where its image says.
        **({} if job.spec.runs_command(stage) else {"workingDir": names.STORAGE_MOUNT}),
        "env": _environment(job, stage, attempt, pods),
        "resources": job.spec.resources_of(stage).to_plain(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "settings", "mountPath": names.SETTINGS_MOUNT, "readOnly": True},
            {"name": "storage", "mountPath": names.STORAGE_MOUNT},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- the pod's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 -- the pod's own
            *(mount.to_plain() for mount in pods.volume_mounts),
        ],
    }
