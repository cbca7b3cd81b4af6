"""How a training's progress is reported: to the replica's progress file, stdout and metrics.jsonl.

Reports     what a training tells its progress
Reporter    writes it there
Place       which rank reports
"""

import json
import os
import sys
from pathlib import Path
from typing import Protocol

from costopt.files import write_atomically
from costopt.hostile import Hostile, append_file, open_file, parse_json
from costopt.schema.replica import Progress
from costopt_trainer.errors import NotRetryable
from costopt_trainer.storage.folders import not_writable

_LONGEST_LINE = 2**16
"""Bytes of a line of metrics.jsonl; ours have a few hundred."""


class Place(Protocol):
    """A rank's place among all."""

    @property
    def rank(self) -> int:
        """Its number among all, from 0."""

    @property
    def local_rank(self) -> int:
        """Its number in its replica, from 0."""


class Reports(Protocol):
    """What hears of a training's progress."""

    def resume_after(self, step: int) -> None:
        """Steps after `step` are taken again."""

    def report(self, progress: Progress, *, keep: bool = True) -> None:
        """`keep`: no fuller report of this step follows."""


class Reporter:
    """Reports the progress: each replica in its progress file, rank 0 also on stdout and in metrics.jsonl."""

    def __init__(self, gang: Place, progress_file: Path | None, metrics_file: Path) -> None:
        """`progress_file` None: nobody reads one."""
        self._progress_file = progress_file if gang.local_rank == 0 else None
        self._metrics_file = metrics_file if gang.rank == 0 else None
        self._folder = metrics_file.parent
        self._last_step = 0

    def resume_after(self, step: int) -> None:
        """Drop the metrics of steps after `step`, which are taken again, and a line cut off by a kill.

        Raises NotRetryable("CheckpointNotWritable") if it is not a file to write to.
        """
        self._last_step = step
        if self._metrics_file is None or not os.path.lexists(self._metrics_file):
            return
        try:
            with open_file(self._metrics_file) as stream:
                lines = stream.read().splitlines(keepends=True)
        except Hostile as error:
            raise self._no_file(error) from error
        kept = [line for line in lines if _is_of_step(line, step)]
        if kept != lines:
            write_atomically(self._metrics_file, b"".join(kept))

    def report(self, progress: Progress, *, keep: bool = True) -> None:
        """Report `progress`. metrics.jsonl gets one line per step, so none for a step it already has, and none if not
        `keep`, because a fuller report of the step follows.

        Raises NotRetryable("CheckpointNotWritable") if the disk is full.
        """
        try:
            self._tell(progress, keep=keep)
        except Hostile as error:
            raise self._no_file(error) from error
        except OSError as error:
            raise not_writable(self._folder, error) from error

    def _no_file(self, error: Hostile) -> NotRetryable:
        return NotRetryable("CheckpointNotWritable", f"{self._metrics_file} {error}: remove it")

    def _tell(self, progress: Progress, *, keep: bool) -> None:
        line = json.dumps(progress.to_plain(), separators=(",", ":")) + "\n"
        if self._progress_file is not None:
            # No sync: the reader is on the same machine, and waiting for the disk every second is not free.
            write_atomically(self._progress_file, line.encode(), durable=False)
        if self._metrics_file is not None:
            sys.stdout.write(line)
            sys.stdout.flush()
            if keep and progress.step > self._last_step:
                with append_file(self._metrics_file) as stream:
                    stream.write(line.encode())
                self._last_step = progress.step


def _is_of_step(line: bytes, last_step: int) -> bool:
    try:
        return line.endswith(b"\n") and int(parse_json(line, max_bytes=_LONGEST_LINE)["step"]) <= last_step
    except (ValueError, KeyError, TypeError):
        return False
