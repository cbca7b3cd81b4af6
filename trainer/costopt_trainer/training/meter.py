"""Where a rank's time goes, and how that and the training's progress are reported.

    figure      a measured number as text
    Meter       all time since the process began, each moment under exactly one head
    Reporter    writes Progress to the replica's progress file, stdout and metrics.jsonl

The loop calls `meter.lap(head)` after each activity; the time since the previous call counts under that head, so the
heads always add up to the whole. Times are the host's: a GPU works asynchronously, so the wait for it counts under
whatever reads a result next. A thread prepares samples meanwhile: data_wait is only the time that the host waits for
them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from costopt import names
from costopt.files import write_atomically
from costopt.hostile import Hostile, append_file, open_file, parse_json
from costopt.schema.replica import MeteredMilliseconds, Progress
from costopt_trainer.errors import NotRetryable
from costopt_trainer.storage.checkpoint_files import not_writable
from costopt_trainer.training.process_group import ProcessGroup

Head = Literal["startup", "data_wait", "training", "evaluation", "checkpoint"]

NANOSECONDS_PER_MILLISECOND = 10**6
NANOSECONDS_PER_SECOND = 10**9

REPORT_EVERY_SECONDS = 1.0
"""A report reads the loss from the device, which blocks the host: too costly at every step of a fast model."""

_LONGEST_LINE = 2**16
"""Bytes of a line of metrics.jsonl; ours have a few hundred."""


def figure(value: float) -> str:
    """A finite measured number as text; nine digits distinguish any two float32."""
    return f"{value:.9g}"


def startup_ns() -> int:
    """Nanoseconds since this rank's launcher began, or, without one, this process."""
    started = os.environ.get(names.ENV_LAUNCHER_STARTED, "")
    return max(0, time.monotonic_ns() - int(started)) if started.isdigit() else process_age_ns()


def process_age_ns() -> int:
    """Nanoseconds since this process began, to 10 ms; 0 if the system does not say (not Linux)."""
    try:
        # Field 22 of proc(5) stat, counted after the name in parentheses: start time in clock ticks since boot.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        started_ns = ticks * NANOSECONDS_PER_SECOND // os.sysconf("SC_CLK_TCK")
        return max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_ns)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0


class Meter:
    """Time by head since the process began, in nanoseconds."""

    def __init__(self, already_ns: int = 0, now: Callable[[], int] = time.monotonic_ns) -> None:
        """`already_ns` had passed before this call; it is start-up too. `now` is a monotonic clock."""
        self._now = now
        self._last_ns = now() - already_ns
        self._heads: dict[Head, int] = dict.fromkeys(
            ("startup", "data_wait", "training", "evaluation", "checkpoint"), 0
        )
        self._saved_ns = 0
        self._reported_ns = now()
        self._rate_since_ns = 0

    def lap(self, head: Head) -> None:
        """Count the time since the last call under `head`."""
        now = self._now()
        self._heads[head] += now - self._last_ns
        self._last_ns = now

    def in_steps_ns(self) -> int:
        """Time in steps and evaluations so far: what a snapshot taken now would hold."""
        return self._heads["training"] + self._heads["evaluation"]

    def checkpoint_completed(self, moment_ns: int) -> None:
        """The steps and evaluations until `in_steps_ns` was `moment_ns` are in a checkpoint: they are productive."""
        self._saved_ns = max(self._saved_ns, moment_ns)

    def metered(self) -> MeteredMilliseconds:
        """The times so far."""
        return MeteredMilliseconds(
            startup=self._heads["startup"] // NANOSECONDS_PER_MILLISECOND,
            productive=self._saved_ns // NANOSECONDS_PER_MILLISECOND,
            since_checkpoint=(self.in_steps_ns() - self._saved_ns) // NANOSECONDS_PER_MILLISECOND,
            data_wait=self._heads["data_wait"] // NANOSECONDS_PER_MILLISECOND,
            checkpoint=self._heads["checkpoint"] // NANOSECONDS_PER_MILLISECOND,
        )

    def report_is_due(self) -> bool:
        """Is it time for the next report?"""
        return self._now() - self._reported_ns >= REPORT_EVERY_SECONDS * NANOSECONDS_PER_SECOND

    def reported(self) -> None:
        """A report was just made."""
        self._reported_ns = self._now()

    def tokens_per_second(self, tokens: int) -> int | None:
        """Rate of `tokens` over the steps since the last call, without evaluations and checkpoints; None: no step."""
        trained_ns = self._heads["training"] + self._heads["data_wait"]
        elapsed_ns, self._rate_since_ns = trained_ns - self._rate_since_ns, trained_ns
        return tokens * NANOSECONDS_PER_SECOND // elapsed_ns if tokens and elapsed_ns else None


class Reporter:
    """Reports the progress: each replica in its progress file, rank 0 also on stdout and in metrics.jsonl."""

    def __init__(self, gang: ProcessGroup, progress_file: Path | None, metrics_file: Path) -> None:
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
