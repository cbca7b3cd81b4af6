"""An attempt as Kubernetes objects, all at once. `children` renders each one, `pods` the pods of its Job.

training    claim (if asked for), NetworkPolicy, ConfigMap, Service (if more than one replica), Job
a variant   ConfigMap of the training attempt that made its model, Job
"""

from costopt.render.children import config_map, indexed_job, network_policy, pod_group, service, storage_claim
from costopt.render.labels import Manifest
from costopt.render.pods import is_gang
from costopt.schema.job import CostOptJob

DEFAULT_IMAGE = "costopt-trainer:0.1.0"


def manifests(
    job: CostOptJob,
    stage: str,
    attempt: int,
    *,
    execution: int = 1,
    train_attempt: int | None = None,
    num_nodes: int | None = None,
    default_image: str = DEFAULT_IMAGE,
    gang_api: str | None = None,
) -> list[Manifest]:
    """The children of one attempt, in the order to create them.

    `train_attempt` is the training attempt whose model a variant is made of; None: the first. `num_nodes` is the
    actual number of replicas of the training attempt; None: as requested. `gang_api` is the version of
    scheduling.k8s.io that places gangs as a whole; None: the pods are placed one by one.
    """
    is_variant = job.spec.variant(stage) is not None
    trained = (train_attempt or 0) if is_variant else attempt
    claim = None if is_variant else storage_claim(job)
    grouped = gang_api if is_gang(job, stage) else None
    return [
        *([claim] if claim else []),
        *([] if is_variant else [network_policy(job)]),
        config_map(job, trained, execution=execution, num_nodes=num_nodes),
        *([service(job, stage, attempt, execution=execution)] if is_gang(job, stage) else []),
        *([pod_group(job, stage, attempt, gang_api=grouped, execution=execution)] if grouped else []),
        indexed_job(
            job,
            stage,
            attempt,
            train_attempt=trained,
            execution=execution,
            default_image=default_image,
            gang_api=grouped,
        ),
    ]
