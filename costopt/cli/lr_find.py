"""`costopt lr-find FILE`: which learning rate a job can take, found by a few steps on this machine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from costopt.cli.inputs import JobFile, Output, read_one_job
from costopt.cli.run import RunDir, require_trainer
from costopt.cli.tables import table
from costopt.cli.views import console
from costopt.local.devices import one_device_for
from costopt.local.range_test import find_range
from costopt.local.run_folder import RunFolder
from costopt.refused import Refused
from costopt.schema.range_report import MOST_STEPS, RangePoint, RangeReport, RangeRequest

MOST_ROWS = 20


def lr_find(
    file: JobFile,
    run_dir: RunDir = None,
    *,
    lowest: Annotated[str, typer.Option("--from", help="Learning rate of the first step.")] = "1e-6",
    highest: Annotated[str, typer.Option("--to", help="Learning rate of the last step.")] = "1",
    steps: Annotated[int, typer.Option(min=10, max=MOST_STEPS, help="Steps from the one to the other.")] = 100,
    output: Output = "text",
) -> None:
    """Try learning rates from low to high on this machine, and suggest one.

    Fresh weights are trained for a few steps, each at a higher rate than the last, until the loss diverges (Smith,
    arXiv 1506.01186). Nothing of the job is changed: if its run folder is there, made tokens are taken from its cache
    and kept in it. Relative data paths start at the current folder.
    """
    job, _ = read_one_job(file)
    if job.spec.recipe is None:
        raise Refused("spec.train.recipe must be set: the learning rate of your own program is not ours to find")
    try:
        request = RangeRequest(lowest=lowest, highest=highest, steps=steps)
    except ValidationError:
        raise Refused(f"--from and --to must be numbers such as 1e-6, and are {lowest} and {highest}") from None
    if not 0 < float(lowest) < float(highest):
        raise Refused(f"--from must be more than 0 and less than --to, and they are {lowest} and {highest}")
    require_trainer(job)
    folder = RunFolder(run_dir or Path("runs", job.metadata.name))
    storage = folder.path if folder.path.is_dir() else None
    others = storage is not None and not folder.has_tokens_alone and folder.job().metadata.name != job.metadata.name
    if others:
        raise Refused(f"{storage} holds the run of another job, {folder.job().metadata.name}; name one with --run-dir")
    found = find_range(job, request, storage, one_device_for(job))
    if output == "json":
        typer.echo(json.dumps(found.model_dump(mode="json", by_alias=True), indent=2))
        return
    out = console()
    out.print(range_table(found))
    for line in advice(found):
        out.print(line, markup=False, soft_wrap=True)


def range_table(found: RangeReport) -> object:
    """Some of the steps, evenly spread, the last one among them."""
    rows = [
        (f"{float(point.learning_rate):.2e}", f"{float(point.loss):.4f}", f"{float(point.smoothed_loss):.4f}")
        for point in _some(found.points)
    ]
    return table("Learning-rate range test", ("learning rate", "loss", "smoothed loss"), rows, left=0)


def advice(found: RangeReport) -> list[str]:
    """What was found, and what to put into the manifest."""
    end = "the loss diverged" if found.end == "Diverged" else "at the highest rate"
    lines = [f"Ended after {len(found.points)} steps: {end}."]
    if found.suggested_learning_rate is None:
        return [*lines, f"No learning rate is suggested: {found.rule}."]
    return [
        *lines,
        f"Suggested learning rate: {found.suggested_learning_rate} ({found.rule}).",
        "In the manifest, under spec.train.recipe:",
        "  optimizer:",
        f'    learningRate: "{found.suggested_learning_rate}"',
    ]


def _some(points: Sequence[RangePoint]) -> list[RangePoint]:
    step = max(1, -(-len(points) // MOST_ROWS))
    return list(points[::-1][::step][::-1])
