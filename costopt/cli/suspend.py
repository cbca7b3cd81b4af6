"""`costopt suspend JOB`: stop after a checkpoint, and keep the job."""

import typer

from costopt.cli.on_cluster import Context, JobName, Kubeconfig, Namespace, command, jobs_of
from costopt.cluster.access import Access
from costopt.cluster.jobs import ClusterJob
from costopt.plan.decide import is_final
from costopt.refused import Refused


def suspend(name: JobName, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Suspend a job on a cluster: it saves a checkpoint, gives its nodes back, and waits to be resumed."""
    access = Access(kubeconfig, context, namespace)
    jobs = jobs_of(access)
    job = jobs.get(name)
    refuse_if_final(job)
    if job.is_to_be_suspended:
        typer.echo(f"Job {name} is to be suspended already.")
        return
    jobs.set_suspend(name, suspend=True)
    typer.echo(f"Job {name} is being suspended: it saves a checkpoint, then gives its nodes back.")
    typer.echo(f"\nNext:\n  {command('resume', name, access)}")


def refuse_if_final(job: ClusterJob) -> None:
    """Raise Refused if the job has ended: it can no longer be changed."""
    if is_final(job.status):
        raise Refused(f"job {job.name} has ended ({job.status.state}); it is neither suspended nor resumed")
