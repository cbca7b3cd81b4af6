"""`costopt resume JOB`: go on from the last checkpoint."""

import typer

from costopt.cli.on_cluster import Context, JobName, Kubeconfig, Namespace, command, jobs_of
from costopt.cli.suspend import refuse_if_final
from costopt.cli.views import goes_on, has_saved, has_training
from costopt.cluster.access import Access
from costopt.cluster.jobs import ClusterJob
from costopt.refused import Refused


def resume(name: JobName, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Resume a suspended job on a cluster: it goes on from its last checkpoint."""
    access = Access(kubeconfig, context, namespace)
    jobs = jobs_of(access)
    job = jobs.get(name)
    refuse_if_final(job)
    if not job.is_to_be_suspended:
        _refuse_if_otherwise_suspended(job)
        typer.echo(f"Job {name} is not suspended.")
        return
    jobs.set_suspend(name, suspend=False)
    again = goes_on(saved=has_saved(job.status.progress), trains=has_training(job.status))
    typer.echo(f"Job {name} {again}.")
    typer.echo(f"\nNext:\n  {command('watch', name, access)}")


def _refuse_if_otherwise_suspended(job: ClusterJob) -> None:
    suspended = job.status.condition("Suspended")
    if suspended is None or suspended.status != "True" or suspended.reason == "SuspendRequested":
        return
    if suspended.reason == "BudgetExceeded":
        raise Refused(f"{suspended.message}; raise spec.budget.amount in the manifest of {job.name} and submit it")
    if suspended.reason == "PriceUnknown":
        raise Refused(f"{suspended.message}; job {job.name} then goes on by itself")
    raise Refused(f"job {job.name} is suspended, but not by spec.suspend ({suspended.reason}: {suspended.message})")
