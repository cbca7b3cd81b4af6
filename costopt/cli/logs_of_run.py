"""The logs of a run folder."""

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from costopt.cli.replicas import Choice, Found, choose
from costopt.hostile import Hostile, open_file
from costopt.local.lock import holder_of
from costopt.local.replica_folder import ReplicaFolder
from costopt.local.run_folder import RunFolder
from costopt.refused import Refused

FOLLOW_EVERY_SECONDS = 0.2
LONGEST_LINE_BYTES = 2**16
"""A longer line is printed in pieces: one that never ends must not fill the memory."""


def print_logs(run_folder: RunFolder, choice: Choice, *, tail: int | None, follow: bool, output: str) -> None:
    """Print the logs of the chosen replicas, and go on while the run does if `follow`."""
    chosen = _choose(run_folder, choice)
    printers = [_Printer(run_folder.log_file(name), form(name, output, alone=len(chosen) == 1)) for name in chosen]
    for printer in printers:
        printer.print_all(tail)
    while follow and _is_run(run_folder):
        time.sleep(FOLLOW_EVERY_SECONDS)
        for printer in printers:
            printer.print_new()


def form(name: str, output: str, *, alone: bool) -> Callable[[str], str]:
    """How to print a line of a replica's log; in JSON, one object per line."""
    if output == "json":
        return lambda line: json.dumps({"replica": name, "line": line})
    prefix = "" if alone else f"{name} | "
    # Each state that a progress bar wrote over is a line here, with its prefix.
    return lambda line: "\n".join(f"{prefix}{part}" for part in line.split("\r") if part or "\r" not in line)


def _choose(run_folder: RunFolder, choice: Choice) -> list[str]:
    found = [
        Found(launch.stage, launch.attempt, launch.index, launch.created_at, path.name)
        for path in run_folder.replica_paths()
        if (launch := ReplicaFolder(path).launch_record()) is not None
    ]
    if not found:
        raise Refused(f"{run_folder.path} has no logs yet: nothing was started in it")
    return [one.key for one in choose(found, choice)]


def _is_run(run_folder: RunFolder) -> bool:
    holder = holder_of(run_folder.lock_file)
    return holder is not None and holder.alive


class _Printer:
    """Prints one log, and later what was added; only whole lines, until the end."""

    def __init__(self, path: Path, form: Callable[[str], str]) -> None:
        self._path = path
        self._form = form
        self._position = 0

    def print_all(self, tail: int | None) -> None:
        last: deque[bytes] = deque(maxlen=tail)
        for line in self._lines():
            if tail is None:
                self._print(line)
            else:
                last.append(line)
            self._position += len(line)
        for line in last:
            self._print(line)

    def print_new(self) -> None:
        for line in self._lines():
            if not line.endswith(b"\n") and len(line) < LONGEST_LINE_BYTES:
                break
            self._print(line)
            self._position += len(line)

    def _lines(self) -> Iterator[bytes]:
        """Lines after the position; none if there is no log. Raises Refused if it is no regular file."""
        try:
            with contextlib.suppress(FileNotFoundError), open_file(self._path) as log:
                log.seek(self._position)
                yield from iter(lambda: log.readline(LONGEST_LINE_BYTES), b"")
        except Hostile as error:
            raise Refused(f"{self._path} cannot be read ({error}); it is no log of this run, so remove it") from None

    def _print(self, line: bytes) -> None:
        print(self._form(line.decode(errors="replace").rstrip()), flush=True)
