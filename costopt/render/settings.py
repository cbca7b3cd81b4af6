"""The settings of a replica in both worlds, made in one place so that the worlds cannot drift apart."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from costopt.names import (
    ENV_ATTEMPT,
    ENV_JOB_UID,
    ENV_PROGRESS_FILE,
    ENV_RENDEZVOUS_HOST,
    ENV_RENDEZVOUS_PORT,
    ENV_SETTINGS_FILE,
    ENV_STORAGE_DIR,
    ENV_TERMINATION_FILE,
)
from costopt.schema.compression import uses_its_place
from costopt.schema.job import CostOptJob
from costopt.schema.replica import ReplicaSettings
from costopt.schema.resources import gpus_per_node

LAUNCHER_MODULE = "costopt_trainer.launch"
SETTINGS_FILE = "settings.json"


def replica_settings(job: CostOptJob, stage: str, num_nodes: int | None = None) -> ReplicaSettings:
    """The settings of every replica of an attempt of `stage`.

    `num_nodes` is the actual number of replicas of a training attempt, if a queue admitted fewer than requested.
    """
    spec = job.spec
    variant = spec.variant(stage)
    return ReplicaSettings(
        job_name=job.metadata.name,
        stage=stage,
        num_nodes=(num_nodes if variant is None else None) or spec.num_replicas(stage),
        processes_per_node=spec.ranks_per_replica(stage),
        recipe=spec.recipe,
        command=spec.command if variant is None else None,
        variant=variant,
        variants_to_come=None if variant else [each for each in spec.compress if uses_its_place(each)] or None,
        model=None if variant is None else spec.model,
        evaluation=None if variant is None else spec.evaluation,
        # A variant has no account of its own from which the bill could tell what a restart lost.
        in_place_restarts=job.spec.restarts.in_place if variant is None else 0,
        hang_timeout_seconds=job.spec.restarts.hang_timeout_seconds,
    )


def settings_text(settings: ReplicaSettings) -> str:
    """The text of settings.json."""
    return json.dumps(settings.to_plain(), indent=2) + "\n"


@dataclass(frozen=True)
class Surroundings:
    """Where a replica finds its files and its gang; all paths as the replica sees them."""

    settings_file: str
    storage_dir: str
    progress_file: str
    termination_file: str
    rendezvous_host: str
    rendezvous_port: str


def replica_environment(job: CostOptJob, stage: str, attempt: int, surroundings: Surroundings) -> dict[str, str]:
    """The environment of every replica of an attempt, without the completion index, which differs."""
    return {
        ENV_SETTINGS_FILE: surroundings.settings_file,
        ENV_STORAGE_DIR: surroundings.storage_dir,
        ENV_ATTEMPT: str(attempt),
        ENV_RENDEZVOUS_HOST: surroundings.rendezvous_host,
        ENV_RENDEZVOUS_PORT: surroundings.rendezvous_port,
        ENV_PROGRESS_FILE: surroundings.progress_file,
        ENV_TERMINATION_FILE: surroundings.termination_file,
        ENV_JOB_UID: job.metadata.uid or "",
        "OMP_NUM_THREADS": str(threads_per_rank(job, stage)),
        "PYTHONUNBUFFERED": "1",
    }


def threads_per_rank(job: CostOptJob, stage: str) -> int:
    """CPU threads of one rank: the requested whole vCPUs divided among the node's ranks, at least 1.

    It depends only on the manifest, not on the machine, because the number of threads changes the order of sums
    and so the last bits of a result.
    """
    cpus = int(job.spec.resources_of(stage).effective()["cpu"])
    return max(1, cpus // replica_settings(job, stage).processes_per_node)


def gpus_of(job: CostOptJob, stage: str) -> int:
    """GPUs that one replica of `stage` requests."""
    resources: Mapping[str, object] = job.spec.resources_of(stage).to_plain()
    return gpus_per_node(resources)
