"""Where a rank's time goes.

    figure      a measured number as text
    Meter       all time since the process began, each moment under exactly one head

The loop calls `meter.lap(head)` after each activity; the time since the previous call counts under that head, so the
heads always add up to the whole. Times are the host's: a GPU works asynchronously, so the wait for it counts under
whatever reads a result next. A thread prepares samples meanwhile: data_wait is only the time that the host waits for
them.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from costopt import names
from costopt.schema.replica import MeteredMilliseconds

Head = Literal["startup", "data_wait", "training", "evaluation", "checkpoint"]

NANOSECONDS_PER_MILLISECOND = 10**6
NANOSECONDS_PER_SECOND = 10**9

REPORT_EVERY_SECONDS = 1.0
"""A report reads the loss from the device, which blocks the host: too costly at every step of a fast model."""


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
