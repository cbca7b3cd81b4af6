"""`costopt report`: a run, or a job on a cluster, as one page of HTML."""

import contextlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from costopt.cli.on_cluster import Context, Kubeconfig, Namespace, jobs_of
from costopt.cli.target import JobArgument, RunDirOption, find_target, required
from costopt.cluster.access import Access
from costopt.cluster.jobs import ClusterJob, Jobs
from costopt.cluster.pod_logs import read_log
from costopt.cluster.pods import pods_of
from costopt.files import write_atomically
from costopt.local.metrics import read_metrics
from costopt.local.run_folder import RunFolder
from costopt.names import METRICS_FILE, TRAIN_STAGE
from costopt.plan.foreign_text import safe_progress
from costopt.refused import Refused
from costopt.schema.job import JobSpec
from costopt.schema.lenient_parse import read_known
from costopt.schema.replica import Progress, progress_in_log

REPORT_PAGE = "report.html"
MOST_LINES = 1_000_000
"""Of a log that are looked through."""

To = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="FILE", help="[default: report.html in the run folder, or <job>.html]", show_default=False
    ),
]


def report(
    job: JobArgument = None,
    run_dir: RunDirOption = None,
    *,
    to: To = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Write what a run was and cost as one page of HTML, which needs nothing else: loss, where time and money went,
    variants with the reasons against them, and what was wasted.
    """
    # The template's library takes a moment to import.
    from costopt.report.facts import facts_of  # noqa: PLC0415
    from costopt.report.page import page  # noqa: PLC0415

    access = Access(kubeconfig, context, namespace)
    target = find_target(job, run_dir, access)
    now = datetime.now(UTC)
    if isinstance(target, RunFolder):
        spec: JobSpec | None = target.job().spec
        name, status, points = target.job().metadata.name, target.status(), read_metrics(target.path / METRICS_FILE)
        file = to or target.path / REPORT_PAGE
    else:
        jobs = jobs_of(access)
        found = jobs.get(required(target))
        name, status, spec, points = found.name, found.status, _spec_of(found), _progress_in_logs(jobs, found)
        file = to or Path(f"{name}.html")
    content = page(facts_of(name, status, spec, in_order(points), now), now)
    try:
        write_atomically(file, content.encode())
    except OSError as error:
        raise Refused(
            f"{file} cannot be written ({error.strerror}); name a file in a folder that is there with --to"
        ) from None
    typer.echo(f"Report: {file}")


def in_order(points: Sequence[Progress]) -> list[Progress]:
    """One point of each step, the latest that was told, in order of steps: an attempt takes steps again."""
    latest = {point.step: safe_progress(point) for point in points}
    return [latest[step] for step in sorted(latest)]


def _spec_of(job: ClusterJob) -> JobSpec | None:
    try:
        return read_known(JobSpec, json.dumps(job.spec).encode())
    except ValidationError:
        return None


def _progress_in_logs(jobs: Jobs, job: ClusterJob) -> list[Progress]:
    """What the first replicas of training have told in their logs, of the pods that are still there; nothing of those
    that this user may not read."""
    found: list[Progress] = []
    with contextlib.suppress(Refused):
        for pod in pods_of(jobs.cluster, job.namespace, job.uid):
            if (pod.stage, pod.index) == (TRAIN_STAGE, 0):
                with contextlib.suppress(Refused):
                    lines = islice(read_log(jobs.cluster, pod), MOST_LINES)
                    found += [told for line in lines if (told := progress_in_log([line])) is not None]
    return found
