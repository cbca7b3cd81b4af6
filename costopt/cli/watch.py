"""`costopt watch JOB`: a job on a cluster, live, until it ends."""

import contextlib
import functools
import json
import sys
import time

import typer

from costopt.cli.inputs import Output
from costopt.cli.live import PlainView, TerminalView, View, current_stage, unheard
from costopt.cli.on_cluster import (
    Context,
    JobName,
    Kubeconfig,
    Namespace,
    command,
    jobs_of,
    place_of,
    state_on_cluster,
    waits,
)
from costopt.cli.result import EXIT_FAILED, EXIT_SUCCEEDED, print_result
from costopt.cli.views import progress_text
from costopt.cluster.access import Access
from costopt.cluster.jobs import ClusterJob, Jobs
from costopt.cluster.patience import Patience, Told
from costopt.plan.decide import has_succeeded, is_final
from costopt.refused import Refused

LOOK_EVERY_SECONDS = 1.0
"""One small request each time."""

ASK_PODS_EVERY_SECONDS = 10.0
"""While replicas do not run: what they wait for."""


def watch(
    name: JobName,
    output: Output = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Watch a job on a cluster until it ends; Ctrl-C ends the watching, not the job.

    Exit codes: 0 succeeded, 1 failed, 2 bad input or deleted meanwhile, 130 Ctrl-C.
    """
    access = Access(kubeconfig, context, namespace)
    jobs = jobs_of(access)
    job = jobs.get(name)
    stream = sys.stderr if output == "json" else sys.stdout
    try:
        if not is_final(job.status):
            view: View = TerminalView(stream, job.status) if stream.isatty() else PlainView(stream, job.status)
            with contextlib.closing(view):
                job = _watch(jobs, job, view)
    except KeyboardInterrupt:
        print(f"The job goes on. {command('watch', name, access)} shows it again.", file=sys.stderr)
        raise typer.Exit(130) from None
    if output == "json":
        typer.echo(json.dumps(job.status.to_plain(), indent=2))
    else:
        with unheard(sys.stdout):
            print_result(
                job.status,
                place_of(job, access),
                [f"{job.status.state}. Job {job.name} in namespace {job.namespace} of {jobs.cluster}."],
            )
    raise typer.Exit(EXIT_SUCCEEDED if has_succeeded(job.status) else EXIT_FAILED)


def _watch(jobs: Jobs, job: ClusterJob, view: View) -> ClusterJob:
    """Show the job until it has ended. Raises Refused if it is deleted before."""
    view.tell(_standing(job))
    patience = Patience(Told(view.tell))
    reasons: list[str] = []
    ask_pods_at = time.monotonic()
    while not is_final(job.status):
        view.show(job.status, time.monotonic())
        if time.monotonic() >= ask_pods_at and _is_starting(job):
            ask_pods_at = time.monotonic() + ASK_PODS_EVERY_SECONDS
            known, reasons = reasons, patience.ask(functools.partial(waits, jobs, job))
            for reason in reasons:
                if reason not in known:
                    view.tell(reason)
        time.sleep(LOOK_EVERY_SECONDS)
        found = patience.ask(functools.partial(jobs.find, job.name))
        if found is None or found.uid != job.uid:
            raise Refused(f"job {job.name} was deleted before it ended")
        job = found
    view.show(job.status, time.monotonic())
    return job


def _is_starting(job: ClusterJob) -> bool:
    stage = current_stage(job.status)
    return stage is not None and stage.state == "Starting"


def _standing(job: ClusterJob) -> str:
    """The job's state when watching began."""
    stage = current_stage(job.status)
    parts = [f"{job.name}: {state_on_cluster(job)}"]
    parts += [f"{stage.name} {stage.state.lower()}, attempt {stage.attempt}"] if stage else []
    parts += [stage.phase] if stage and stage.phase else []
    parts += [progress_text(job.status.progress)] if job.status.progress else []
    return "; ".join(parts)
