"""An attempt as Kubernetes objects, all at once. `children` renders each one, `pods` the pods of its Job.

training    claim (if asked for), NetworkPolicy, ConfigMap, Service (if more than one replica), Job
a variant   ConfigMap of the training attempt that made its model, Job
a variant of a model that is given    claim (if asked for), NetworkPolicy, ConfigMap, Job
"""

from costopt import names
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
    comes_first = begins_job(job, stage)
    settled = (stage, attempt) if comes_first else (names.TRAIN_STAGE, train_attempt or 0)
    settings = config_map(job, *settled, execution=execution, num_nodes=num_nodes)
    claim = storage_claim(job) if comes_first else None
    grouped = gang_api if is_gang(job, stage) else None
    return [
        *([claim] if claim else []),
        *([network_policy(job)] if comes_first else []),
        settings,
        *([service(job, stage, attempt, execution=execution)] if is_gang(job, stage) else []),
        *([pod_group(job, stage, attempt, gang_api=grouped, execution=execution)] if grouped else []),
        indexed_job(
            job,
            stage,
            attempt,
            settings=settings["metadata"]["name"],
            execution=execution,
            default_image=default_image,
            gang_api=grouped,
        ),
    ]


def begins_job(job: CostOptJob, stage: str) -> bool:
    """Whether attempts of `stage` follow no other's: they bring what the job has once."""
    return stage == names.TRAIN_STAGE or job.spec.train is None
