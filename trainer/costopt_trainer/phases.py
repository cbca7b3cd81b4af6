"""Signs of life where no step ends: which phase this process is in, one line of JSON every few seconds.

    VOICE       the process' own; silent until a launcher or rank lets it speak
    phase       `with phase("Tokenizing") as pieces:`, and `pieces.done(3, 10)` for each piece that is finished; for
                each optimizer step within a phase `pieces.step_done(3, 10)`

A line is no proof of life by itself, so each needs one: a piece that was finished since the last line. Where a phase is
one opaque call (an import, a compiler, the writing of one file) a thread speaks for it, but no longer than PATIENCE
after the last piece: a process that hangs falls silent. One that is frozen, or deadlocked in a call that keeps Python's
lock, does so at once.

Nothing here draws a random number, and between two lines a piece costs one look at the clock.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from costopt.schema.replica import STARTUP_PHASES, Phase, PhaseName
from costopt_trainer.heartbeat import HEARTBEAT

LINE_EVERY_SECONDS = 4.0
"""Between two lines; the shortest stall timeout is 10 seconds."""

PATIENCE_SECONDS: Mapping[PhaseName, float] = {
    "Importing": 300,  # torch from a cold network volume
    "MeetingRanks": 600,  # as long as a launcher waits for the others
    "RunningCommand": 0,
    "ReadingData": 120,  # a file that is opened, a folder that is listed
    "ReachingData": 300,  # one more try, which a library makes of several of its own
    "LearningTokenizer": 3600,  # merges are counted in one call
    "Tokenizing": 0,  # every 64 KiB are a piece
    "Selecting": 300,  # the samples of a part are compared in one call
    "BuildingModel": 300,
    "LoadingCheckpoint": 300,  # one file of at most 1 GiB, and the moments of the optimizer on their way to a device
    "LoadingModel": 300,
    "Rehearsing": 600,  # kernels are chosen and compiled
    "Evaluating": 0,  # every micro-batch is a piece
    "SavingCheckpoint": 300,  # one file of at most 1 GiB
    "SavingModel": 600,  # one file
    "Quantizing": 600,
    "Pruning": 600,
    "Factorizing": 600,
    "SharingWeights": 600,
    "RunningStep": 0,  # only its own pieces count
    "FineTuning": 0,  # every report of its steps is a piece
    "Distilling": 0,  # likewise
    "Compiling": 1800,
    "Measuring": 0,  # every run is a piece
    "Verifying": 600,  # a fresh process imports torch and loads the variant
}
"""How long the thread may speak for a phase after its last finished piece; 0: only pieces count."""

FIRST_PIECE_SECONDS = 600.0
"""How long the first piece of a phase may take before its rank counts as hanging: kernels may be compiled for it."""


class Pieces:
    """What a phase is told of its pieces."""

    def __init__(self, voice: "Voice", name: PhaseName, *, aloud: bool) -> None:
        self._voice = voice
        self.name: PhaseName = name
        self.aloud = aloud
        self.percent: int | None = None
        self.steps: tuple[int, int] | None = None
        """Optimizer steps taken, and all of them, where it trains."""
        self.last_piece = voice.now()

    def done(self, finished: float | None = None, of: float | None = None) -> None:
        """A piece is finished: `finished` of `of` in all, where that is known."""
        self.last_piece = self._voice.now()
        self._voice.known.add(self.name)
        HEARTBEAT.piece(self.name, PATIENCE_SECONDS[self.name])
        if finished is not None and of:
            self.percent = max(0, min(100, int(100 * finished / of)))
        self._voice.line(self)

    def step_done(self, step: int, of: int) -> None:
        """A piece is finished: optimizer step `step` of all."""
        self.steps = (step, of)
        self.done(step, of)

    def goes_on(self) -> bool:
        """A piece is finished, and another is to follow."""
        self.done()
        return True


class Voice:
    """Prints the phases of one process. `line` may be called by several threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._write: Callable[[bytes], object] | None = None
        self._aloud = False
        self._lock = threading.Lock()
        self._speaker: threading.Thread | None = None
        self._line_at = float("-inf")
        self.known: set[PhaseName] = set()
        """Phases of which this process has finished a piece: another will not have to compile anything first."""
        self._stack: list[Pieces] = []
        self._begun = threading.Event()

    def speak_up(self, *, aloud: bool, write: Callable[[bytes], object] | None = None) -> None:
        """Speak from now on: of all phases if `aloud`, else only of those that this process is alone in."""
        self._write = write or _write_to_stdout
        self._aloud = aloud
        if self._speaker is None or not self._speaker.is_alive():
            self._speaker = threading.Thread(target=self._speak_for_opaque_calls, name="phases", daemon=True)
            self._speaker.start()

    def fall_silent(self) -> None:
        """Print nothing more: others speak now."""
        with self._lock:
            self._write = None

    @contextlib.contextmanager
    def phase(self, name: PhaseName, *, alone: bool = False) -> Iterator[Pieces]:
        """Be in a phase; `alone`: other ranks wait for this one, so it speaks whoever it is.

        A phase of start-up is told at its beginning; a later one, which may be over in a moment, if no line was printed
        lately.
        """
        pieces = Pieces(self, name, aloud=self._aloud or alone)
        self._stack.append(pieces)
        HEARTBEAT.phase(name, self._patience(name))
        self._begun.set()
        self.line(pieces, at_once=name in STARTUP_PHASES or name == "RunningCommand")
        try:
            yield pieces
        finally:
            self._stack.remove(pieces)
            self.known.add(name)
            if self._stack:
                outer = self._stack[-1]
                outer.last_piece = self.now()
                HEARTBEAT.phase(outer.name, self._patience(outer.name))
            else:
                HEARTBEAT.phase(None)
                self._begun.clear()

    def _patience(self, name: PhaseName) -> float:
        return max(PATIENCE_SECONDS[name], 0 if name in self.known else FIRST_PIECE_SECONDS)

    def line(self, pieces: Pieces, *, at_once: bool = False) -> None:
        """Print a line, unless it is too early for one."""
        if self._write is None or not pieces.aloud:
            return
        if not at_once and self.now() - self._line_at < LINE_EVERY_SECONDS:
            return
        with self._lock:
            if self._write is None or (not at_once and self.now() - self._line_at < LINE_EVERY_SECONDS):
                return
            self._line_at = self.now()
            step, of = pieces.steps or (None, None)
            report = Phase(phase=pieces.name, percent=pieces.percent, step=step, total_steps=of).to_plain()
            self._write((json.dumps(report, separators=(",", ":")) + "\n").encode())

    def _speak_for_opaque_calls(self) -> None:
        while self._write is not None:
            self._begun.wait()
            time.sleep(LINE_EVERY_SECONDS / 4)
            innermost = next(iter(self._stack[-1:]), None)
            if innermost is not None and self.now() - innermost.last_piece < PATIENCE_SECONDS[innermost.name]:
                self.line(innermost)


def _write_to_stdout(line: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more: the work goes on
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), line)


VOICE = Voice()

phase = VOICE.phase
