"""Where a rank's time goes.

    figure      a measured number as text
    Meter       all time since the process began, each moment under exactly one head

The loop calls `meter.lap(head)` after each activity; the time since the previous call counts under that head, so the
heads always add up to the whole. Times are the host's: a GPU works asynchronously, so the wait for it counts under
whatever reads a result next. A thread prepares samples meanwhile: data_wait is only the time that the host waits for
them.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from costopt import names
from costopt.schema.replica import EarlierRounds, MeteredMilliseconds
from costopt_trainer.heartbeat import HEARTBEAT

Head = Literal["startup", "selecting", "data_wait", "training", "evaluation", "checkpoint"]

NANOSECONDS_PER_MILLISECOND = 10**6
NANOSECONDS_PER_SECOND = 10**9

REPORT_EVERY_SECONDS = 1.0
"""A report reads the loss from the device, which blocks the host: too costly at every step of a fast model."""

NOT_KEPT: Mapping[str, None] = {"metered": None, "in_place_restarts": None, "restarted_for": None}
"""What of a progress a checkpoint does not keep: it tells of one attempt."""


def figure(value: float) -> str:
    """A finite measured number as text; nine digits distinguish any two float32."""
    return f"{value:.9g}"


def startup_ns() -> int:
    """Nanoseconds since this rank's launcher began, or those before it ended; without a launcher, this process."""
    started = os.environ.get(names.ENV_LAUNCHER_STARTED, "")
    return max(0, time.monotonic_ns() - int(started)) if started.isdigit() else process_age_ns()


def earlier_rounds() -> EarlierRounds:
    """What the launcher says of the ranks before this one, if it was started anew in place."""
    told = os.environ.get(names.ENV_EARLIER_ROUNDS)
    return EarlierRounds.model_validate_json(told) if told else EarlierRounds()


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

    def __init__(
        self,
        already_ns: int = 0,
        now: Callable[[], int] = time.monotonic_ns,
        earlier: EarlierRounds = EarlierRounds(),  # noqa: B008 - frozen
    ) -> None:
        """`already_ns` had passed before this call; it is start-up too. `now` is a monotonic clock. `earlier`: the
        times of ranks before this one count too; the start-up since then is recovery."""
        self._now = now
        self.earlier = earlier
        self._last_ns = now() - already_ns
        self._heads: dict[Head, int] = dict.fromkeys(
            ("startup", "selecting", "data_wait", "training", "evaluation", "checkpoint"), 0
        )
        self._apart: list[tuple[Head, int]] = []
        self._saved_ns = 0
        self._reported_ns = now()
        self._rate_since_ns = 0

    def lap(self, head: Head) -> None:
        """Count the time since the last call under `head`."""
        now = self._now()
        elapsed_ns, self._last_ns = now - self._last_ns, now
        for part, nanoseconds in self._apart:
            self._heads[part] += nanoseconds
            elapsed_ns -= nanoseconds
        self._apart.clear()
        self._heads[head] += elapsed_ns
        HEARTBEAT.account(self._own_ns())
        HEARTBEAT.beat()

    @contextlib.contextmanager
    def apart(self, head: Head) -> Iterator[None]:
        """Count the time within under `head`, once the time around it is counted: by the next `lap`.

        Not at once, because a rank that has counted its start is taken to be in its steps.
        """
        begun_ns = self._now()
        try:
            yield
        finally:
            self._apart.append((head, self._now() - begun_ns))

    def in_steps_ns(self) -> int:
        """Time in steps and evaluations so far: what a snapshot taken now would hold."""
        return self._heads["training"] + self._heads["evaluation"]

    def checkpoint_completed(self, moment_ns: int) -> None:
        """The steps and evaluations until `in_steps_ns` was `moment_ns` are in a checkpoint: they are productive."""
        self._saved_ns = max(self._saved_ns, moment_ns)
        HEARTBEAT.account(self._own_ns())
        HEARTBEAT.checkpoint_completed()

    def _own_ns(self) -> tuple[int, int, int, int, int, int]:
        """Of this process: startup, productive, since the checkpoint, data wait, checkpoint, selecting."""
        heads = self._heads
        since_checkpoint = self.in_steps_ns() - self._saved_ns
        startup, waited, saving = heads["startup"], heads["data_wait"], heads["checkpoint"]
        return startup, self._saved_ns, since_checkpoint, waited, saving, heads["selecting"]

    def metered(self) -> MeteredMilliseconds:
        """The times so far, with those of earlier ranks."""
        startup, productive, since_checkpoint, data_wait, checkpoint, selecting = (
            nanoseconds // NANOSECONDS_PER_MILLISECOND for nanoseconds in self._own_ns()
        )
        before, anew = self.earlier.metered, self.earlier.restarts > 0
        return MeteredMilliseconds(
            startup=before.startup + (0 if anew else startup),
            productive=before.productive + productive,
            since_checkpoint=since_checkpoint,
            data_wait=before.data_wait + data_wait,
            checkpoint=before.checkpoint + checkpoint,
            recovery=before.recovery + (startup if anew else 0),
            lost=before.lost,
            selecting=before.selecting + selecting,
        )

    def step_finished(self, step: int) -> None:
        """A step is taken; the launcher sees it, and no report is made."""
        HEARTBEAT.step(step)

    def goes_on_from(self, step: int) -> dict[str, object]:
        """Fields of Progress that tell whether these ranks were started anew in place, and why."""
        HEARTBEAT.goes_on_from(step)
        return {"in_place_restarts": self.earlier.restarts or None, "restarted_for": self.earlier.cause}

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
