"""`costopt status`: where a run stands, or a job on a cluster, or all of them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Group

from costopt.cli import is_plugin
from costopt.cli.inputs import Output
from costopt.cli.on_cluster import (
    Context,
    Kubeconfig,
    Namespace,
    jobs_of,
    place_of,
    state_on_cluster,
    waits,
)
from costopt.cli.tables import table
from costopt.cli.target import JobArgument, RunDirOption, find_target, run_place
from costopt.cli.variants import variants_table
from costopt.cli.views import (
    Place,
    console,
    cost_so_far,
    duration,
    early_stopped_text,
    failures_text,
    progress_text,
    restarts_in_place_text,
    stages_table,
)
from costopt.cluster.access import Access
from costopt.cluster.jobs import ClusterJob, Jobs
from costopt.local.lock import holder_of
from costopt.local.run_folder import RunFolder
from costopt.plan.decide import is_final
from costopt.refused import Refused
from costopt.schema.status import JobStatus

AllNamespaces = Annotated[
    bool, typer.Option("--all-namespaces", "-A", help="List the jobs of every namespace of the cluster.")
]


def status(
    job: JobArgument = None,
    run_dir: RunDirOption = None,
    *,
    output: Output = "text",
    all_namespaces: AllNamespaces = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show where a run stands, or a job on a cluster.

    Without a name: the newest run folder in runs/, or else the cluster's jobs.
    """
    access = Access(kubeconfig, context, namespace)
    if all_namespaces:
        if job is not None or run_dir is not None or namespace is not None:
            raise Refused("--all-namespaces lists jobs; leave the name, --run-dir and --namespace out")
        _list(jobs_of(access), output, everywhere=True)
        return
    target = find_target(job, run_dir, access)
    if isinstance(target, RunFolder):
        _of_run_folder(target, str(job or run_dir or target.path), output)
    elif target is None:
        _list(jobs_of(access), output, everywhere=False)
    else:
        jobs = jobs_of(access)
        _of_job(jobs, jobs.get(target), access, output)


def _of_run_folder(run_folder: RunFolder, said: str, output: str) -> None:
    found = run_folder.status()
    if output == "json":
        typer.echo(json.dumps(found.to_plain(), indent=2))
        return
    holder = holder_of(run_folder.lock_file)
    alive = holder is not None and holder.alive
    state = found.state
    if state in ("Active", "New"):
        state = (
            f"Active, run by process {holder.pid}" if holder and alive else "Interrupted; run the same command again"
        )
    _print(f"{run_folder.job().metadata.name}: {state}", [], found, run_place(run_folder, said))


def _of_job(jobs: Jobs, job: ClusterJob, access: Access, output: str) -> None:
    if output == "json":
        typer.echo(json.dumps(job.status.to_plain(), indent=2))
        return
    reasons = [] if is_final(job.status) else waits(jobs, job)
    _print(f"{job.name}: {state_on_cluster(job)}", reasons, job.status, place_of(job, access))


def _print(first: str, reasons: list[str], found: JobStatus, place: Place) -> None:
    out = console()
    out.print(first, markup=False)
    if found.stages:
        out.print(stages_table(found))
    for stage in found.stages:
        if stage.phase is not None:
            out.print(f"{stage.name}: {stage.phase}", markup=False)
        if (anew := restarts_in_place_text(stage)) is not None:
            out.print(anew, markup=False, soft_wrap=True)
    for reason in reasons:
        out.print(reason, markup=False, soft_wrap=True)
    if found.progress is not None:
        out.print(progress_text(found.progress), markup=False)
    if found.early_stopped is not None:
        out.print(early_stopped_text(found.early_stopped), markup=False, soft_wrap=True)
    out.print(f"cost so far: {cost_so_far(found.bill)}", markup=False)
    if found.continues_from_step is not None:
        out.print(_before(found, found.continues_from_step), markup=False, soft_wrap=True)
    if found.variants:
        out.print(variants_table(found.variants))
    for text in failures_text(found, place, recovered=not found.state.startswith("Failed")):
        out.print(text, markup=False, soft_wrap=True)


def _before(found: JobStatus, step: int) -> str:
    """What an earlier job did; it is not counted here."""
    earlier = found.earlier_job
    known = earlier is not None and earlier.priced_cost is not None
    cost = f"{earlier.priced_cost} {earlier.currency or ''}".rstrip() if earlier and known else "not known"
    return f"Training went on from step {step} of an earlier job, whose cost ({cost}) is not in this bill."


def _list(jobs: Jobs, output: str, *, everywhere: bool) -> None:
    found = jobs.list(everywhere=everywhere)
    if output == "json":
        typer.echo(json.dumps([_summary(job) for job in found], indent=2))
        return
    where = "every namespace" if everywhere else f"namespace {jobs.namespace}"
    if not found:
        hint = "" if everywhere else "; -A lists those of every namespace"
        if not is_plugin():
            hint += "; `costopt run` runs one on this machine"
        typer.echo(f"There is no job in {where} of {jobs.cluster}{hint}.")
        return
    console().print(jobs_table(found, f"Jobs in {where} of {jobs.cluster}", datetime.now(UTC), everywhere=everywhere))


def jobs_table(found: Sequence[ClusterJob], title: str, now: datetime, *, everywhere: bool) -> Group:
    """A row for each job, with its namespace if there are several."""
    rows = [
        (
            *((job.namespace,) if everywhere else ()),
            job.name,
            state_on_cluster(job).partition(";")[0],
            _steps(job.status),
            cost_so_far(job.status.bill),
            duration((now - job.created).total_seconds()),
        )
        for job in found
    ]
    columns = (*(("namespace",) if everywhere else ()), "job", "state", "step", "cost so far", "age")
    return table(title, columns, rows, left=3 if everywhere else 2)


def _steps(found: JobStatus) -> str:
    return f"{found.progress.step}/{found.progress.total_steps}" if found.progress else ""


def _summary(job: ClusterJob) -> dict[str, object]:
    return {"namespace": job.namespace, "name": job.name, "status": job.status.to_plain()}
