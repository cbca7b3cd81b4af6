"""Each kind of child: ConfigMap, Service, Job, and those that exist once per job (NetworkPolicy, claim).

Why the Job looks as it does:

* Nothing is retried inside a Job: the replicas of a gang start and end together, and the Job controller delays each
  replacement of a deleted pod longer than the last. A retry is a new attempt with its own Job. Hence backoffLimit 0,
  restartPolicy Never, and a podFailurePolicy that fails the Job for any pod's end, naming the kind of end.
* spec.suspend is true at creation if a queue such as Kueue admits the Job, which then owns the field; otherwise it is
  not set.
* The settings of all stages are in the ConfigMap of the training attempt, so that a variant has the same settings as
  the attempt that trained its model. Of a model that is given each variant's attempt has a ConfigMap of its own.

Reference: https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
"""

from costopt import names
from costopt.render.labels import Manifest, attempt_labels, child_labels, job_labels, metadata
from costopt.render.pods import CONTAINER, claim_name, pod_template, settings_key
from costopt.render.settings import replica_settings, settings_text
from costopt.schema.job import CostOptJob
from costopt.schema.replica import EXIT_NOT_RETRYABLE

MIN_PARALLELISM_ANNOTATION = "kueue.x-k8s.io/job-min-parallelism"
COMPLETIONS_FOLLOW_ANNOTATION = "kueue.x-k8s.io/job-completions-equal-parallelism"

WORKLOAD_API = "v1alpha1"
"""Kubernetes 1.35: a Workload holds its groups. From v1alpha2 (1.36) on a PodGroup is a separate object."""


def storage_claim(job: CostOptJob) -> Manifest | None:
    """The claim that `storage.create` asks for; None if the job brings its own or has none."""
    name, storage = claim_name(job), job.spec.storage
    if name is None or storage is None or storage.create is None:
        return None
    asked = storage.create
    storage_class = {} if asked.storage_class_name is None else {"storageClassName": asked.storage_class_name}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(job, name, job_labels(job), owned=not asked.keep_after_deletion),
        "spec": {
            "accessModes": [asked.access_mode],
            **storage_class,
            "resources": {"requests": {"storage": asked.size}},
        },
    }


def network_policy(job: CostOptJob) -> Manifest:
    """Pods of the job accept connections only from each other: the rendezvous and NCCL trust whoever connects."""
    pods = {"matchLabels": job_labels(job)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(job, names.network_policy_name(job.metadata.name), job_labels(job)),
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": pods}]}],
        },
    }


def config_map(
    job: CostOptJob, stage: str, attempt: int, *, execution: int = 1, num_nodes: int | None = None
) -> Manifest:
    """The settings for an attempt of `stage`; for one of training, of `num_nodes` replicas (None: as asked for), those
    of the variants too."""
    stages = job.spec.stages if stage == names.TRAIN_STAGE else (stage,)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(
            job,
            names.child_name(job.metadata.name, stage, attempt),
            child_labels(job, stage, attempt, execution),
        ),
        # A queue may admit the gang again with another number of nodes.
        **({} if job.metadata.labels.get(names.QUEUE_NAME_LABEL) else {"immutable": True}),
        "data": {settings_key(each): settings_text(replica_settings(job, each, num_nodes)) for each in stages},
    }


def service(job: CostOptJob, stage: str, attempt: int, *, execution: int = 1) -> Manifest:
    """The headless Service through which the replicas of a gang find the first one."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(
            job,
            names.service_name(job.metadata.name, stage, attempt),
            child_labels(job, stage, attempt, execution),
        ),
        "spec": {
            "clusterIP": "None",
            # The gang meets before any replica is ready; names must resolve before that.
            "publishNotReadyAddresses": True,
            "selector": attempt_labels(job, stage, attempt),
            "ports": [{"name": "rendezvous", "port": names.RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }


def indexed_job(
    job: CostOptJob,
    stage: str,
    attempt: int,
    *,
    settings: str,
    execution: int = 1,
    default_image: str,
    gang_api: str | None = None,
) -> Manifest:
    """The attempt's Job; it mounts the ConfigMap named `settings`. `gang_api`: see `pod_group`."""
    num_replicas = job.spec.num_replicas(stage)
    child = names.child_name(job.metadata.name, stage, attempt)
    own = metadata(job, child, child_labels(job, stage, attempt, execution))
    annotations = _queue_annotations(job, stage)
    queued = bool(job.metadata.labels.get(names.QUEUE_NAME_LABEL))
    template = pod_template(
        job,
        stage,
        attempt,
        execution=execution,
        config_map=settings,
        default_image=default_image,
    )
    if gang_api is not None:
        template["spec"] |= _group_reference(child, stage, gang_api)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **own,
            "labels": {**_of_queue(job.metadata.labels), **own["labels"]},
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {
            **({"suspend": True} if queued else {}),
            "completionMode": "Indexed",
            "completions": num_replicas,
            "parallelism": num_replicas,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            # The policy also matches pods that a queue ended by suspending the Job, as long as a finalizer keeps them,
            # and would fail the Job. Without it backoffLimit fails the Job for any pod that ends by itself.
            **({} if queued else {"podFailurePolicy": {"rules": _FAIL_AT_ONCE}}),
            "template": template,
        },
    }


def _of_queue(labels_or_annotations: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels_or_annotations.items() if key.startswith(names.QUEUE_PREFIX)}


def _queue_annotations(job: CostOptJob, stage: str) -> dict[str, str]:
    """The queue's annotations. A gang of fewer replicas has fewer ranks: no later pod makes up for them."""
    annotations = _of_queue(job.metadata.annotations)
    # A Job of one replica cannot be admitted with fewer, and a queue rejects the request. The settings of a variant
    # are written before it is admitted, with the number that is asked for.
    if stage != names.TRAIN_STAGE or job.spec.num_replicas(stage) < 2:
        annotations.pop(MIN_PARALLELISM_ANNOTATION, None)
    follow = {COMPLETIONS_FOLLOW_ANNOTATION: "true"} if MIN_PARALLELISM_ANNOTATION in annotations else {}
    return {**annotations, **follow}


def _fail_on_exit_code(operator: str, exit_code: int) -> Manifest:
    return {
        "action": "FailJob",
        "onExitCodes": {"containerName": CONTAINER, "operator": operator, "values": [exit_code]},
    }


_FAIL_AT_ONCE = [
    _fail_on_exit_code("In", EXIT_NOT_RETRYABLE),
    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    _fail_on_exit_code("NotIn", 0),
]
"""Any end of a pod other than exit code 0 fails the Job, naming the kind of end."""


def pod_group(job: CostOptJob, stage: str, attempt: int, *, gang_api: str, execution: int = 1) -> Manifest:
    """The attempt as a group that the Kubernetes scheduler places as a whole or not at all.

    `gang_api` is the version of scheduling.k8s.io that the server offers: v1alpha1, v1alpha2 or v1beta1.
    """
    child = names.child_name(job.metadata.name, stage, attempt)
    gang = {"gang": {"minCount": job.spec.num_replicas(stage)}}
    kind: str
    spec: Manifest
    if gang_api == WORKLOAD_API:
        kind, spec = "Workload", {"podGroups": [{"name": stage, "policy": gang}]}
    else:
        kind, spec = "PodGroup", {"schedulingPolicy": gang}
    return {
        "apiVersion": f"scheduling.k8s.io/{gang_api}",
        "kind": kind,
        "metadata": metadata(job, child, child_labels(job, stage, attempt, execution)),
        "spec": spec,
    }


def _group_reference(child: str, stage: str, gang_api: str) -> Manifest:
    """How a pod names its group. A Workload holds one group, named after its stage."""
    if gang_api == WORKLOAD_API:
        return {"workloadRef": {"name": child, "podGroup": stage}}
    return {"schedulingGroup": {"podGroupName": child}}
