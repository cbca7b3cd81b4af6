"""What a rank leaves for its launcher to see, without a system call: signs of work, and where its time went.

    Heartbeat    of a rank, which writes it: a beat for each piece of work that is done
    HEARTBEAT    this process' own; it writes nowhere until `attach`
    read_beat    what a launcher sees of a rank, also after it was killed

It is a page of memory that a rank shares with its launcher through a small file. A rank that is killed cannot say any
more how far it was: this page does. One that hangs does not beat: this is how a launcher finds it.
"""

import faulthandler
import mmap
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from costopt import names
from costopt.hostile import lock_file, read_file
from costopt.schema.replica import PHASE_WORDS, MeteredMilliseconds, PhaseName

PAGE_BYTES = 4096
_PHASES: tuple[PhaseName, ...] = tuple(PHASE_WORDS)
_NANOSECONDS_PER_MILLISECOND = 10**6

# Places of the page, whole numbers of 64 bits each.
_BEATS, _STEP, _STEPS_HERE, _PHASE, _PATIENCE_MS, _LONGEST_STEP_NS, _SHOWS_STACKS, _CHECKPOINTS = range(8)
_HEADS: Final = ("startup", "productive", "since_checkpoint", "data_wait", "checkpoint", "selecting")
_FIRST_HEAD = 8
_BEATS_BEFORE = _FIRST_HEAD + len(_HEADS)

_UNEVEN: PhaseName = "SavingCheckpoint"
"""A phase of which ranks have different shares, some none: it does not tell how far a rank is in a step."""


@dataclass(frozen=True)
class Beat:
    """What a rank has left."""

    beats: int
    """Signs of work so far; 0: it has not begun, or is a program that gives none."""
    beats_of_step: int
    """Signs since the last finished step; before the first, all. Ranks that go in step have as many, whatever one of
    them had to do before, or had to save itself."""
    step: int
    """Last finished step, or the one that it went on from."""
    steps_here: int
    """Finished by this process."""
    phase: PhaseName | None
    """What it is at where no step ends. None: it takes steps, or does nothing that has a name."""
    patience_seconds: float
    """How long a piece of that phase may take; 0: no longer than a step."""
    longest_step_seconds: float
    """Longest time between two signs of work within steps, after the first step; 0: not known yet."""
    shows_stacks: bool
    """Whether it prints its stacks at SIGUSR1, which would end any other process."""
    checkpoints: int
    """Completed since the process began."""
    metered: MeteredMilliseconds
    """Where the time of this process went until its last lap."""


class Heartbeat:
    """The page of one rank. Each call costs about a microsecond; all do nothing until `attach` has found a page."""

    def __init__(self, now: Callable[[], int] = time.monotonic_ns) -> None:
        self._now = now
        self._page: memoryview | None = None
        self._step_since_ns = 0
        """Since when steps are taken without a phase; 0: they are not."""

    def attach(self, environment: Mapping[str, str] = os.environ) -> None:
        """Write to the page that the launcher has made, if there is a launcher."""
        path = environment.get(names.ENV_HEARTBEAT_FILE)
        if not path:
            return
        try:
            descriptor = lock_file(Path(path))
            try:
                self._page = memoryview(mmap.mmap(descriptor, PAGE_BYTES)).cast("q")
            finally:
                os.close(descriptor)
        except (OSError, ValueError):  # without it, work goes on; only hangs are found later
            return
        self.beat()

    def beat(self) -> None:
        """A piece of work is done."""
        if self._page is None:
            return
        self._page[_BEATS] += 1
        if self._step_since_ns:
            now = self._now()
            self._page[_LONGEST_STEP_NS] = max(self._page[_LONGEST_STEP_NS], now - self._step_since_ns)
            self._step_since_ns = now

    def goes_on_from(self, step: int) -> None:
        """The step of the checkpoint that was loaded, or 0."""
        if self._page is not None:
            self._page[_STEP] = step

    def step(self, finished: int) -> None:
        """A step is finished. The first one of a process is not taken for what the others need."""
        if self._page is None:
            return
        self._page[_STEP] = finished
        self._page[_STEPS_HERE] += 1
        self.beat()
        self._page[_BEATS_BEFORE] = self._page[_BEATS]
        self._step_since_ns = self._now()

    def phase(self, name: PhaseName | None, patience_seconds: float = 0) -> None:
        """No step ends from now on, as long as this phase lasts; None: it is over."""
        if self._page is None:
            return
        self.beat()
        if name == _UNEVEN or self._is_in(_UNEVEN):
            self._page[_BEATS_BEFORE] += 1
        self._step_since_ns = 0
        self._page[_PATIENCE_MS] = int(1000 * patience_seconds)
        self._page[_PHASE] = 0 if name is None else 1 + _PHASES.index(name)

    def piece(self, name: PhaseName, patience_seconds: float) -> None:
        """A piece of this phase is done, and another may follow."""
        if self._page is None:
            return
        self._page[_BEATS] += 1
        if name == _UNEVEN:
            self._page[_BEATS_BEFORE] += 1
        if self._is_in(name):
            self._page[_PATIENCE_MS] = int(1000 * patience_seconds)

    def _is_in(self, name: PhaseName) -> bool:
        return self._page is not None and self._page[_PHASE] == 1 + _PHASES.index(name)

    def account(self, metered_ns: tuple[int, ...]) -> None:
        """Where the time went until now, in nanoseconds, by `_HEADS`."""
        if self._page is not None:
            for place, nanoseconds in enumerate(metered_ns, start=_FIRST_HEAD):
                self._page[place] = nanoseconds

    def checkpoint_completed(self) -> None:
        """A checkpoint is there."""
        if self._page is not None:
            self._page[_CHECKPOINTS] += 1

    def show_stacks_when_asked(self) -> None:
        """At SIGUSR1 the stacks of all threads go to stderr, also while the main one waits in C++. Does nothing without
        a launcher that would ask, and where the program has a use of its own for that signal."""
        if self._page is None or not hasattr(signal, "SIGUSR1") or signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL:
            return
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        self._page[_SHOWS_STACKS] = 1


HEARTBEAT = Heartbeat()


def make_page(path: Path) -> None:
    """Make an empty page for a rank that is about to be started."""
    path.unlink(missing_ok=True)  # one that is gone may still be mapped by a process that is on its way out
    path.write_bytes(bytes(PAGE_BYTES))


def read_beat(path: Path) -> Beat | None:
    """What the rank has left; None if there is no page."""
    try:
        page = memoryview(read_file(path, max_bytes=PAGE_BYTES)).cast("q")
    except (OSError, ValueError, TypeError):
        return None
    if page.nbytes != PAGE_BYTES:
        return None
    phase = page[_PHASE]
    heads = {
        head: max(0, page[_FIRST_HEAD + place]) // _NANOSECONDS_PER_MILLISECOND for place, head in enumerate(_HEADS)
    }
    return Beat(
        beats=page[_BEATS],
        beats_of_step=max(0, page[_BEATS] - page[_BEATS_BEFORE]),
        step=max(0, page[_STEP]),
        steps_here=max(0, page[_STEPS_HERE]),
        phase=_PHASES[phase - 1] if 0 < phase <= len(_PHASES) else None,
        patience_seconds=max(0, page[_PATIENCE_MS]) / 1000,
        longest_step_seconds=max(0, page[_LONGEST_STEP_NS]) / 10**9,
        shows_stacks=page[_SHOWS_STACKS] == 1,
        checkpoints=max(0, page[_CHECKPOINTS]),
        metered=MeteredMilliseconds(**heads),
    )
