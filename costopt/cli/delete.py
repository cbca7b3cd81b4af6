"""`costopt delete JOB`: remove a job and its pods from a cluster."""

from typing import Annotated

import typer

from costopt.cli.on_cluster import Context, JobName, Kubeconfig, Namespace, jobs_of
from costopt.cli.views import cost_so_far
from costopt.cluster.access import Access
from costopt.cluster.patience import Patience, Told
from costopt.cluster.refusals import Forbidden


def delete(
    name: JobName,
    wait: Annotated[bool, typer.Option("--wait", help="Until the job and all its pods are gone.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete a job from a cluster, with its pods and its bill; storage that is its own is kept if it says so."""
    jobs = jobs_of(Access(kubeconfig, context, namespace))
    job = jobs.get(name)
    jobs.delete(job)
    typer.echo(f"Job {name} deleted. Its cost was {cost_so_far(job.status.bill)}.")
    if job.kept_claim:
        typer.echo(f"Its checkpoints and artifacts stay in the claim {job.kept_claim}.")
    if wait:
        try:
            jobs.wait_until_gone(job, Patience(Told(lambda sentence: typer.echo(sentence, err=True))))
        except Forbidden as error:
            typer.echo(f"Its pods cannot be waited for: {error}.", err=True)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
