"""An attempt as processes of this machine: one launcher per node, all on loopback.

Environment variables set here take precedence over inherited ones, so that a user's shell cannot change which rank a
process is. spec.pods.env applies here too, except for values that only a cluster knows. A node sees only the GPUs it
requests, like a pod; without a request, none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from costopt.names import ENV_REPLICA_INDEX, LOGS_DIR, REPLICAS_DIR, child_name
from costopt.render.references import resolved
from costopt.render.settings import (
    SETTINGS_FILE,
    Surroundings,
    gpus_of,
    replica_environment,
    replica_settings,
    settings_text,
)
from costopt.schema.job import CostOptJob

LOOPBACK = "127.0.0.1"
PROGRESS_FILE = "progress.json"
TERMINATION_FILE = "termination.json"


@dataclass(frozen=True)
class Process:
    """One replica as a process; its output goes to `log_file`."""

    name: str
    """`<child>-<index>`: what its pod's host name would be."""
    stage: str
    attempt: int
    index: int
    argv: tuple[str, ...]
    environment: dict[str, str]
    """Added to the inherited one, and takes precedence."""
    working_dir: str
    """Relative data paths of the manifest start here."""
    folder: str
    """Its own folder: settings, progress, termination message."""
    log_file: str
    settings: str
    """Text of its settings.json."""


def left_to_the_cluster(job: CostOptJob) -> list[str]:
    """Names of variables whose values are in a Secret or ConfigMap, so they are not set on one machine."""
    return [variable.name for variable in (job.spec.pods.env if job.spec.pods else []) if variable.value is None]


def processes(
    job: CostOptJob,
    stage: str,
    attempt: int,
    *,
    run_dir: PurePath,
    working_dir: PurePath,
    launcher: Sequence[str],
    rendezvous_port: str,
    devices: Sequence[str] = (),
) -> tuple[Process, ...]:
    """The replicas of an attempt. `launcher` is the command line of one;
    `devices` names the machine's GPUs, as in CUDA_VISIBLE_DEVICES.
    """
    settings = settings_text(replica_settings(job, stage))
    gpus = gpus_of(job, stage)
    child = child_name(job.metadata.name, stage, attempt)
    variables = job.spec.pods.env if job.spec.pods else []
    users = {variable.name: variable.value for variable in variables if variable.value is not None}
    drawn = []
    for index in range(job.spec.num_replicas(stage)):
        name = f"{child}-{index}"
        folder = run_dir / REPLICAS_DIR / name
        surroundings = Surroundings(
            settings_file=str(folder / SETTINGS_FILE),
            storage_dir=str(run_dir),
            progress_file=str(folder / PROGRESS_FILE),
            termination_file=str(folder / TERMINATION_FILE),
            rendezvous_host=LOOPBACK,
            rendezvous_port=rendezvous_port,
        )
        environment = replica_environment(job, stage, attempt, surroundings) | {
            ENV_REPLICA_INDEX: str(index),
            "CUDA_VISIBLE_DEVICES": ",".join(devices[index * gpus : (index + 1) * gpus]),
        }
        for name, value in users.items():
            environment[name] = resolved(value, environment)
        drawn.append(
            Process(
                name=name,
                stage=stage,
                attempt=attempt,
                index=index,
                argv=tuple(launcher),
                environment=environment,
                working_dir=str(working_dir),
                folder=str(folder),
                log_file=str(run_dir / LOGS_DIR / f"{name}.log"),
                settings=settings,
            )
        )
    return tuple(drawn)
