"""`costopt logs`: what the processes of a run have written."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from costopt.cli.inputs import Output
from costopt.cli.status import RunDirArgument, RunDirOption, find_run_folder
from costopt.local.lock import holder_of
from costopt.local.refused import Refused
from costopt.local.replica_folder import ReplicaFolder
from costopt.local.run_folder import RunFolder

FOLLOW_EVERY_SECONDS = 0.2


def logs(
    run_dir: RunDirArgument = None,
    run_dir_option: RunDirOption = None,
    *,
    stage: Annotated[str | None, typer.Option(help="Stage: train, or a variant's name. [default: the latest]")] = None,
    attempt: Annotated[int | None, typer.Option(min=0, help="Attempt. [default: the latest]")] = None,
    index: Annotated[int | None, typer.Option(min=0, help="Replica of the gang. [default: all]")] = None,
    tail: Annotated[int | None, typer.Option(min=0, help="Just the last lines of each replica.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    output: Output = "text",
) -> None:
    """Print what the processes of a run have written."""
    run_folder = find_run_folder(run_dir, run_dir_option)
    chosen = _choose(run_folder, stage, attempt, index)
    printers = [_Printer(run_folder.log_file(name), _form(name, output, alone=len(chosen) == 1)) for name in chosen]
    try:
        for printer in printers:
            printer.print_all(tail)
        while follow and _is_run(run_folder):
            time.sleep(FOLLOW_EVERY_SECONDS)
            for printer in printers:
                printer.print_new()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _choose(run_folder: RunFolder, stage: str | None, attempt: int | None, index: int | None) -> list[str]:
    """Names of the replicas that are meant. Raises Refused, naming what there is, if there is none."""
    found = [(path.name, ReplicaFolder(path).birth()) for path in run_folder.replica_paths()]
    births = [(name, birth) for name, birth in found if birth is not None]
    if not births:
        raise Refused(f"{run_folder.path} has no logs yet: nothing was started in it")
    if stage is None:
        stage = max(births, key=lambda item: item[1].created_at)[1].stage
    of_stage = [item for item in births if item[1].stage == stage]
    if not of_stage:
        raise Refused(f"--stage must be one of {', '.join(sorted({b.stage for _, b in births}))}; it is {stage}")
    attempts = sorted({birth.attempt for _, birth in of_stage})
    if attempt is None:
        attempt = attempts[-1]
    if attempt not in attempts:
        raise Refused(f"--attempt of {stage} must be from {attempts[0]} to {attempts[-1]}; it is {attempt}")
    of_attempt = {birth.index: name for name, birth in of_stage if birth.attempt == attempt}
    if index is None:
        return [of_attempt[place] for place in sorted(of_attempt)]
    if index not in of_attempt:
        raise Refused(f"--index of {stage} must be from 0 to {max(of_attempt)}; it is {index}")
    return [of_attempt[index]]


def _is_run(run_folder: RunFolder) -> bool:
    holder = holder_of(run_folder.lock_file)
    return holder is not None and holder.alive


def _form(name: str, output: str, *, alone: bool) -> Callable[[str], str]:
    """How a line of a replica's log is printed; as JSON, one object for each line."""
    if output == "json":
        return lambda line: json.dumps({"replica": name, "line": line})
    return (lambda line: line) if alone else (lambda line: f"{name} | {line}")


class _Printer:
    """Prints one log, and later what was added; whole lines only, until the end."""

    def __init__(self, path: Path, form: Callable[[str], str]) -> None:
        self._path = path
        self._form = form
        self._position = 0

    def print_all(self, tail: int | None) -> None:
        with self._open() as log:
            lines = log.readlines() if tail is None else deque(log, maxlen=tail)
            for line in lines:
                self._print(line)
            self._position = log.tell()

    def print_new(self) -> None:
        with self._open() as log:
            log.seek(self._position)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._print(line)
                self._position += len(line)

    def _open(self) -> BinaryIO:
        return self._path.open("rb") if self._path.exists() else Path(os.devnull).open("rb")

    def _print(self, line: bytes) -> None:
        print(self._form(line.decode(errors="replace").rstrip()), flush=True)
