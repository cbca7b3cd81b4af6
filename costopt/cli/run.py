"""`costopt run FILE`: a job on this machine, from the manifest to the bill."""

import contextlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from costopt.cli.inputs import JobFile, Output, PriceBookFile, read_job
from costopt.cli.live import PlainView, TerminalView, View, unheard
from costopt.cli.result import EXIT_FAILED, EXIT_SUCCEEDED, print_result
from costopt.cli.target import run_place
from costopt.cli.views import goes_on
from costopt.local.devices import devices_for
from costopt.local.earlier_run import EarlierRun
from costopt.local.lock import only_runner
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner, TurnResult
from costopt.plan.decide import has_succeeded, is_final
from costopt.refused import Refused
from costopt.render.processes import left_to_the_cluster
from costopt.schema.job import CostOptJob
from costopt.schema.status import JobStatus

EXIT_SUSPENDED = 3

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

NOTICES = ("saving a checkpoint, then suspending; once more to stop without waiting", "stopping now")
"""Printed after the first and the second stop signal."""

RunDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Run folder. [default: runs/<job>]", show_default=False)
]


Retry = Annotated[
    bool,
    typer.Option(
        "--retry",
        help="Go on from the last checkpoint though the job has failed, or though its settings have changed since.",
    ),
]


def run(
    file: JobFile,
    run_dir: RunDir = None,
    price_book: PriceBookFile = None,
    output: Output = "text",
    retry: Retry = False,
) -> None:
    """Run a job on this machine, or resume it.

    Relative data paths start at the current folder. Ctrl-C saves a checkpoint and suspends the job, a second one stops
    it at once; the same command resumes it. A job that has ended is not run again: its result is printed. With
    --retry a failed one is, and one of other settings than before, such as more totalSteps: it goes on from the last
    checkpoint, and what it has cost so far stays in its bill. Where that does not fit them, a run that has succeeded
    stays as it was.

    Exit codes: 0 succeeded, 1 failed, 2 bad input, 3 suspended (by spec.suspend or budget), 130 suspended by Ctrl-C,
    129 or 143 by SIGHUP or SIGTERM.
    """
    job, book = read_job(file, price_book)
    require_trainer(job)
    devices = devices_for(job)
    _say_what_is_not_set(job)
    folder = run_dir or Path("runs", job.metadata.name)
    run_folder = RunFolder(folder)
    run_folder.create()
    try:
        with only_runner(run_folder.lock_file):
            earlier = run_folder.succeeded()
            status, again = run_folder.begin(job, retry=retry)
            runner = Runner(run_folder, job, book, devices=devices)
            stopped_by = None
            if not is_final(status):
                status, stopped_by = _watch(runner, status, output)
            if again and earlier is not None:
                _put_back_if_refused(run_folder, earlier, status)
    except OSError as error:
        raise Refused(
            f"{error.filename or run_folder.path}: {error.strerror}; mend that and run the same command again: "
            f"it {goes_on(saved=None, trains=job.spec.train is not None)}"
        ) from None
    if output == "json":
        typer.echo(json.dumps(status.to_plain(), indent=2))
    else:
        with unheard(sys.stdout):
            closing = [f"{status.state}. Run folder: {folder}"]
            if retry and not again and has_succeeded(status):
                closing.insert(0, "Nothing was run: it has succeeded, and its settings are what they were.")
            if not is_final(status):
                closing.insert(0, _how_to_resume(status, stopped_by))
            print_result(status, run_place(run_folder, str(folder)), closing)
    raise typer.Exit(_exit_code(status, stopped_by))


def _put_back_if_refused(run_folder: RunFolder, earlier: EarlierRun, tried: JobStatus) -> None:
    """Raise Refused, and leave the run as it was, if its new settings do not fit what it has saved."""
    failure = earlier.refusal(tried)
    if failure is None:
        return
    run_folder.put_back(earlier, tried.bill)
    raise Refused(
        f"{failure.message.rstrip(' .')}; nothing was changed: {run_folder.path} still holds the run that has "
        "succeeded, and --run-dir starts afresh in another folder"
    )


def require_trainer(job: CostOptJob) -> None:
    """Raise Refused if this machine lacks what trains."""
    needed = ["costopt_trainer", "torch"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(f"job {job.metadata.name} needs the trainer on this machine; install costopt[trainer]")


def _say_what_is_not_set(job: CostOptJob) -> None:
    for name in left_to_the_cluster(job):
        state = "it is what it is in your shell" if name in os.environ else "it is not set; export it in your shell"
        typer.echo(f"spec.pods.env takes {name} from an object of the cluster; here {state}", err=True)


def _watch(runner: Runner, status: JobStatus, output: str) -> tuple[JobStatus, signal.Signals | None]:
    """Run the job and show it; also returns the signal that suspended it, if any."""
    stream = sys.stderr if output == "json" else sys.stdout
    view: View = TerminalView(stream, status) if stream.isatty() else PlainView(stream, status)
    received: list[signal.Signals] = []
    told: list[str] = []

    def show(look: TurnResult) -> None:
        for notice in NOTICES[len(told) : len(received)]:
            told.append(notice)
            view.tell(notice)
        view.show(look.status, time.monotonic())

    with contextlib.closing(view), _on_stop(received, runner):
        status = runner.run(show)
    return status, received[0] if received else None


@contextlib.contextmanager
def _on_stop(received: list[signal.Signals], runner: Runner) -> Iterator[None]:
    """The first stop signal suspends the job, the second stops it at once.

    Signals that are already ignored stay so, as with nohup. The signal handler prints nothing, because it may have
    interrupted a print.
    """

    def on_signal(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        runner.suspend_requested = True
        runner.kill_requested = len(received) > 1

    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(status: JobStatus, stopped_by: signal.Signals | None) -> int:
    if is_final(status):
        return EXIT_SUCCEEDED if has_succeeded(status) else EXIT_FAILED
    return 128 + stopped_by if stopped_by is not None else EXIT_SUSPENDED


def _how_to_resume(status: JobStatus, stopped_by: signal.Signals | None) -> str:
    suspended = status.condition("Suspended")
    if suspended is not None and suspended.reason == "BudgetExceeded":
        return f"{suspended.message}. Raise spec.budget.amount, then run the same command again to resume."
    if suspended is not None and suspended.reason == "PriceUnknown":
        return f"{suspended.message}. Then run the same command again to resume."
    if stopped_by is None:
        return "spec.suspend is true. Set it to false, then run the same command again to resume."
    lost = suspended.message.partition("; ")[2] if suspended is not None else ""
    if lost:
        return f"Suspended, but {lost}. Run the same command again to resume."
    return "Suspended as asked. Run the same command again to resume."
