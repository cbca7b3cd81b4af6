"""What the commands on a cluster share: options, the job they are about, and the commands they suggest."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from costopt.cli import program_name
from costopt.cli.views import Place, goes_on, has_saved, has_training
from costopt.cluster.access import Access
from costopt.cluster.connect import connect
from costopt.cluster.jobs import ClusterJob, Jobs
from costopt.cluster.pods import ReplicaPod, pods_of
from costopt.cluster.refusals import Forbidden

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of a job on the cluster.")]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Namespace. [default: the context's]", show_default=False),
]
Context = Annotated[str | None, typer.Option(metavar="NAME", help="Context of the kubeconfig. [default: its current]")]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="[default: KUBECONFIG, ~/.kube/config, or the pod's own account]"),
]

RETRY = "then delete the job and submit it again: with the same storage it {goes_on}."


def jobs_of(access: Access) -> Jobs:
    """The jobs of the chosen namespace."""
    return Jobs(connect(access))


def command(verb: str, name: str, access: Access) -> str:
    """The command that does `verb` to this job, ready to type."""
    return f"{program_name()} {verb} {name}{access.options()}"


def place_of(job: ClusterJob, access: Access) -> Place:
    """Where to read more about the job, and how to retry it."""
    again = goes_on(saved=has_saved(job.status.progress), trains=has_training(job.status))
    retry = RETRY.format(goes_on=again)
    return Place(logs=command("logs", job.name, access), retry=retry)


def state_on_cluster(job: ClusterJob) -> str:
    """The job's state, and what was requested but is not done yet."""
    state = job.status.state
    if job.is_being_deleted:
        return f"{state}, being deleted"
    if state == "New":
        return "New; the operator has not looked at it yet"
    if state == "Active" and job.is_to_be_suspended:
        return "Active, being suspended"
    return state


def waits(jobs: Jobs, job: ClusterJob) -> list[str]:
    """What replicas that do not run yet wait for; nothing if this user may not see pods."""
    try:
        return waiting_lines(pods_of(jobs.cluster, job.namespace, job.uid))
    except Forbidden:
        return []


def waiting_lines(pods: Sequence[ReplicaPod]) -> list[str]:
    """One line per reason, with the number of replicas that it delays."""
    reasons = Counter((pod.stage, pod.waits_for) for pod in pods if pod.waits_for)
    return [
        f"{stage}: {count} replica{'s wait' if count != 1 else ' waits'} for {reason}"
        for (stage, reason), count in reasons.items()
    ]
