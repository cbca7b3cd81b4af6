"""`costopt logs`: what the processes of a run, or of a job on a cluster, have written."""

import os
import sys
from typing import Annotated

import typer

from costopt.cli import logs_of_job, logs_of_run
from costopt.cli.inputs import Output
from costopt.cli.on_cluster import Context, Kubeconfig, Namespace, jobs_of
from costopt.cli.replicas import Choice
from costopt.cli.target import JobArgument, RunDirOption, find_target, required
from costopt.cluster.access import Access
from costopt.local.run_folder import RunFolder


def logs(
    job: JobArgument = None,
    run_dir: RunDirOption = None,
    *,
    stage: Annotated[str | None, typer.Option(help="Stage: train, or a variant's name. [default: the latest]")] = None,
    attempt: Annotated[int | None, typer.Option(min=0, help="Attempt. [default: the latest]")] = None,
    index: Annotated[int | None, typer.Option(min=0, help="Replica of the gang. [default: all]")] = None,
    replica: Annotated[
        str | None, typer.Option(metavar="STAGE-aATTEMPT-INDEX", help="One replica by its name, such as train-a0-0.")
    ] = None,
    tail: Annotated[int | None, typer.Option(min=0, help="Just the last lines of each replica.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    output: Output = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what the processes of a run, or of a job on a cluster, have written."""
    access = Access(kubeconfig, context, namespace)
    choice = Choice(stage, attempt, index, replica)
    target = find_target(job, run_dir, access)
    try:
        if isinstance(target, RunFolder):
            logs_of_run.print_logs(target, choice, tail=tail, follow=follow, output=output)
        else:
            jobs = jobs_of(access)
            found = jobs.get(required(target))
            logs_of_job.print_logs(jobs, found, choice, tail=tail, follow=follow, output=output)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
