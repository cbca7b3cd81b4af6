"""`costopt status`: where a run stands."""

import json
from pathlib import Path
from typing import Annotated

import typer

from costopt.cli.inputs import Output
from costopt.cli.views import (
    console,
    cost_so_far,
    failure_text,
    progress_text,
    stages_table,
    state_of,
    variants_table,
)
from costopt.local.lock import holder_of
from costopt.local.refused import Refused
from costopt.local.run_folder import JOB_FILE, RunFolder

RUNS = Path("runs")

RunDirArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN_DIR]", help="Run folder. [default: the newest in runs/]", show_default=False),
]
RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="The same as RUN_DIR.", show_default=False)
]


def find_run_folder(argument: Path | None, option: Path | None) -> RunFolder:
    """The run folder that is meant. Raises Refused if there is none, or if two are given."""
    if argument is not None and option is not None and argument != option:
        raise Refused("the run folder must be given once: as RUN_DIR or with --run-dir")
    path = argument or option or _newest()
    run_folder = RunFolder(path)
    run_folder.check()
    return run_folder


def _newest() -> Path:
    found = [path.parent for path in RUNS.glob(f"*/{JOB_FILE}")]
    if not found:
        raise Refused(f"there is no run folder in {RUNS}/ here; name one, as printed by `costopt run`")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def status(run_dir: RunDirArgument = None, run_dir_option: RunDirOption = None, output: Output = "text") -> None:
    """Show where a run stands."""
    run_folder = find_run_folder(run_dir, run_dir_option)
    found = run_folder.status()
    if output == "json":
        typer.echo(json.dumps(found.to_plain(), indent=2))
        return
    out = console()
    job = run_folder.job()
    holder = holder_of(run_folder.lock_file)
    alive = holder is not None and holder.alive
    state = state_of(found)
    if state in ("Active", "New"):
        state = (
            f"Active, run by process {holder.pid}" if holder and alive else "Interrupted; run the same command again"
        )
    out.print(f"{job.metadata.name}: {state}", markup=False)
    if found.stages:
        out.print(stages_table(found))
    if found.progress is not None:
        out.print(progress_text(found.progress), markup=False)
    out.print(f"cost so far: {cost_so_far(found.bill)}", markup=False)
    if found.variants:
        out.print(variants_table(found.variants))
    if found.failure is not None:
        folder = str(run_dir or run_dir_option or run_folder.path)
        recovered = not state.startswith("Failed")
        out.print(failure_text(found.failure, folder, recovered=recovered), markup=False, soft_wrap=True)
