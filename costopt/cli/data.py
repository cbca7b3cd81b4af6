"""`costopt data FILE`: what a job's data is, and what becomes of it before a model sees it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from costopt.cli.data_views import views
from costopt.cli.inputs import JobFile, Output, read_one_job
from costopt.cli.run import RunDir, require_trainer
from costopt.cli.trainer_program import ask
from costopt.cli.views import console
from costopt.local.run_folder import RunFolder
from costopt.refused import Refused
from costopt.schema.data_report import DataReport, SamplesReport, report_in
from costopt.schema.job import CostOptJob
from costopt.schema.recipe import Recipe

MODULE = "costopt_trainer.show_data"
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Read the beginning only (500 documents or 8 MiB, 200 images), and write nothing."),
]


def data(file: JobFile, run_dir: RunDir = None, *, dry_run: DryRun = False, output: Output = "text") -> None:
    """Show what a job's data is, and what becomes of it before it is trained on: documents, what each transform changed
    and dropped, and tokens; or ready-made tokens, images by class, rows.

    Relative data paths start at the current folder. The tokens stay in the run folder, where `costopt run` finds them.

    Exit codes: 0 done, 2 bad input.
    """
    job, _ = read_one_job(file)
    recipe = recipe_of(job)
    require_trainer(job)
    folder = RunFolder(run_dir or Path("runs", job.metadata.name))
    if not dry_run:
        folder.create()
    reports = _reports(recipe, folder.path, sample=dry_run)
    if output == "json":
        found = [report.to_plain() for report in reports]
        typer.echo(json.dumps(found if recipe.data.type == "Mixture" else found[0], indent=2))
        return
    out = console()
    for report in reports:
        for view in views(report):
            out.print(view)


def recipe_of(job: CostOptJob) -> Recipe:
    """The job's recipe. Raises Refused if it has none."""
    if job.spec.recipe is None:
        raise Refused(f"job {job.metadata.name} must have a recipe; a command reads its data itself")
    return job.spec.recipe


def _reports(recipe: Recipe, storage: Path, *, sample: bool) -> list[DataReport | SamplesReport]:
    """Have the trainer's code make them, one of each source. Raises Refused in its sentence."""
    asked = {"recipe": recipe.to_plain(), "storage": str(storage), "sample": sample}
    return ask(
        MODULE,
        json.dumps(asked),
        lambda answer: [report_in(report) for report in answer["reports"]],
        task="the process that reads the data must end with a report",
    )
