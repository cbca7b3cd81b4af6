"""What a user sees while a job runs: a self-updating panel on a terminal, plain lines anywhere else."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from typing import Protocol, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from costopt.cli.status_changes import attempt_mark, changes
from costopt.cli.views import console, cost_so_far, duration, progress_text
from costopt.names import TRAIN_STAGE
from costopt.schema.replica import Progress
from costopt.schema.status import JobStatus, StageStatus

RATE_WINDOW_SECONDS = 60.0
"""The time left is estimated from the pace of the last minute."""

LINE_EVERY_SECONDS = 10.0
"""Between two plain progress lines, unless a tenth of the steps is done sooner."""


class View(Protocol):
    """Shows the state of a job."""

    def show(self, status: JobStatus, now: float) -> None:
        """Show the newest status; `now` is when it was read, in seconds of a monotonic clock."""

    def tell(self, text: str) -> None:
        """Print something that is not in the status."""

    def close(self) -> None:
        """End the display; leave what is worth keeping."""


class Pace:
    """Steps per second over the last minute of one attempt."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._attempt: tuple[int | None, ...] = ()

    def seconds_left(self, now: float, attempt: int, progress: Progress) -> float | None:
        """Seconds to the last step at this pace; None while no pace is known."""
        # Until a new attempt reports, the status shows the old one's last progress.
        reported_by = (attempt, *attempt_mark(progress))
        if reported_by != self._attempt or (self._seen and progress.step < self._seen[-1][1]):
            self._seen.clear()
            self._attempt = reported_by
        if not self._seen or progress.step != self._seen[-1][1]:
            self._seen.append((now, progress.step))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_WINDOW_SECONDS:
            self._seen.popleft()
        (since, first), (until, last) = self._seen[0], self._seen[-1]
        seconds = until - since
        if last <= first or seconds <= 0:
            return None
        return max(0.0, (progress.total_steps - last) * seconds / (last - first) - (now - until))


def current_stage(status: JobStatus) -> StageStatus | None:
    """The active stage, else the last active one."""
    begun = [stage for stage in status.stages if stage.state != "Waiting"]
    at_work = [stage for stage in begun if stage.state in ("Starting", "Running", "Stopping")]
    return at_work[0] if at_work else begun[-1] if begun else None


def words_of(phase: str) -> str:
    """The phase without how far it is: "tokenizing 40 %" is "tokenizing", "fine-tuning, step 4 of 9" "fine-tuning"."""
    return phase.partition(", step ")[0].rstrip(" %0123456789")


@contextlib.contextmanager
def unheard(stream: TextIO) -> Iterator[None]:
    """A job goes on when its reader is gone (`| head`, a closed terminal): output to `stream` is then dropped."""
    try:
        yield
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class PlainView:
    """Lines for a file, a pipe or a CI log: every change, and sometimes progress."""

    def __init__(self, stream: TextIO, status: JobStatus) -> None:
        self._stream = stream
        self._status = status
        self._pace = Pace()
        self._line_at: float | None = None
        self._line_step = status.progress.step if status.progress else 0
        self._phase: tuple[str, str] | None = None
        """The phase last printed, and its stage."""
        self._phase_at: float | None = None

    def show(self, status: JobStatus, now: float) -> None:
        """Print what is new."""
        for line in changes(self._status, status):
            self.tell(line)
        self._status = status
        stage, progress = current_stage(status), status.progress
        if stage is not None and self._tells_phase(stage, now):
            self.tell(f"{stage.name}: {stage.phase}")
        if stage is None or stage.name != TRAIN_STAGE or progress is None:
            return
        left = self._pace.seconds_left(now, stage.attempt, progress)
        if progress.step == self._line_step:
            return
        waited = self._line_at is None or now - self._line_at >= LINE_EVERY_SECONDS
        if waited or abs(progress.step - self._line_step) * 10 >= progress.total_steps:
            self._line_at, self._line_step = now, progress.step
            remaining = f"  {duration(left)} left" if left is not None else ""
            self.tell(f"{stage.name}: {progress_text(progress)}{remaining}  cost {cost_so_far(status.bill)}")

    def _tells_phase(self, stage: StageStatus, now: float) -> bool:
        """Whether to print the stage's phase: a new one, or the same one a while later and further on."""
        if stage.phase is None or (stage.phase, stage.name) == self._phase:
            return False
        is_same = self._phase is not None and words_of(stage.phase) == words_of(self._phase[0])
        if is_same and self._phase_at is not None and now - self._phase_at < LINE_EVERY_SECONDS:
            return False
        self._phase, self._phase_at = (stage.phase, stage.name), now
        return True

    def tell(self, text: str) -> None:
        """Print a line."""
        with unheard(self._stream):
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to close."""


class TerminalView:
    """A panel at the bottom of the terminal, and every change above it."""

    def __init__(self, stream: TextIO, status: JobStatus) -> None:
        self._status = status
        self._pace = Pace()
        self._stream = stream
        self._live = Live(console=console(stream), refresh_per_second=4, transient=True)
        self._live.start()

    def show(self, status: JobStatus, now: float) -> None:
        """Update the panel."""
        for line in changes(self._status, status):
            self.tell(line)
        self._status = status
        with unheard(self._stream):
            self._live.update(self._panel(status, now))

    def tell(self, text: str) -> None:
        """Print a line above the panel."""
        with unheard(self._stream):
            self._live.console.print(Text(text))

    def close(self) -> None:
        """Remove the panel."""
        with unheard(self._stream):
            self._live.stop()

    def _panel(self, status: JobStatus, now: float) -> Group:
        stage = current_stage(status)
        if stage is None:
            return Group(Text("starting"))
        rows: list[tuple[str, str]] = []
        rows.append(("stage", f"{stage.name} {stage.state.lower()}, attempt {stage.attempt}"))
        if stage.phase is not None:
            rows.append(("now", stage.phase))
        bar: list[RenderableType] = []
        progress = status.progress
        if progress is not None and stage.name == TRAIN_STAGE:
            left = self._pace.seconds_left(now, stage.attempt, progress)
            bar = [
                ProgressBar(
                    total=progress.total_steps, completed=progress.step, width=min(40, self._live.console.width)
                )
            ]
            rows.append(("done", progress_text(progress)))
            rows.append(("left", duration(left) if left is not None else "unknown"))
        rows.append(("cost so far", cost_so_far(status.bill)))
        return Group(*bar, *(Text(f"{name:<11}  {value}", overflow="fold") for name, value in rows))
