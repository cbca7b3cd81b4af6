"""Finding ranks that hang: what each rank shows, and what that says of the gang.

    Watch        of one launcher: looks at its own ranks about once a second -> Sight of each
    find_hang    Sights of the whole gang -> Hang, or None (pure)

Ranks of a recipe go in step: where one hangs, all others soon wait for it, in a collective that torch gives up after
half an hour. So a gang hangs when *none* of its ranks has shown a sign of work for longer than it may be without one;
one alone that is silent may be waited for with good reason. A rank that is stopped (SIGSTOP) hangs whatever others do.
Silence is counted by the launcher's own clock, and never more than two looks at a time: a launcher that was itself held
up, perhaps with its whole machine, knows nothing of that time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from costopt.schema.base import Count, Strict
from costopt_trainer.heartbeat import Beat, read_beat

LOOK_SECONDS = 1.0
SHORTEST_SECONDS = 60.0
"""Of silence within steps, if nothing else is asked for."""
STEPS = 10
"""As many times the longest step so far; a step that takes longer than that does not come back."""
FIRST_STEP_SECONDS = 600.0
"""Until a process has finished its first step, in which kernels may be compiled."""
START_SECONDS = 300.0
"""From a recipe's start to its first sign."""


class Sight(Strict):
    """One rank as its launcher sees it."""

    rank: Count
    """Its number in the gang."""
    step: Count
    """Last finished step, or the one that it went on from."""
    beats: Count
    """Signs of work since that step."""
    silent_milliseconds: Count
    """Since the last of them."""
    limit_milliseconds: Count | None
    """How long it may be without one now. None: it gives no signs."""
    stopped_milliseconds: Count
    """For how long it has been stopped; 0: it is not."""

    @property
    def is_over(self) -> bool:
        """Whether it has been silent for too long."""
        return self.limit_milliseconds is not None and self.silent_milliseconds >= self.limit_milliseconds


@dataclass(frozen=True)
class Hang:
    """A gang that hangs."""

    rank: int | None
    """The rank that is behind; None: not known."""
    sentence: str


def find_hang(gang: Sequence[Sight], stopped_seconds: float) -> Hang | None:
    """What `gang` hangs at; None if it may go on. `stopped_seconds`: how long a rank may be stopped."""
    for sight in gang:
        if sight.stopped_milliseconds >= 1000 * stopped_seconds:
            where = f" after step {sight.step}" if sight.step else ""
            seconds = sight.stopped_milliseconds // 1000
            others = max((other.step for other in gang if other is not sight), default=0)
            waiting = f" while others wait in step {others + 1}" if others else ""
            return Hang(sight.rank, f"rank {sight.rank} has been stopped (SIGSTOP){where} for {seconds} s{waiting}")
    if not gang or not all(sight.is_over for sight in gang):
        return None
    last, first = min(gang, key=_how_far), max(gang, key=_how_far)
    silence = f"no rank has shown a sign of work for {min(sight.silent_milliseconds for sight in gang) // 1000} s"
    if last.step < first.step:
        behind = f"rank {last.rank} finished step {last.step} while others wait in step {first.step + 1}"
        return Hang(last.rank, f"{silence}: {behind}")
    where = f"in step {first.step + 1}" if first.step else "before their first step"
    if last.beats < first.beats:
        return Hang(last.rank, f"{silence}: {where}, rank {last.rank} is behind the others")
    alone = gang[0].rank if len(gang) == 1 else None
    return Hang(alone, f"{silence}: all are {where}; their stacks are in the log")


def _how_far(sight: Sight) -> tuple[int, int]:
    return (sight.step, sight.beats)


def limit_of(beat: Beat | None, asked_seconds: float | None, *, gives_signs: bool) -> float | None:
    """How many seconds a rank that shows `beat` may be silent. None: for ever; its signs may be far apart for good
    reasons. A program of the user's own that reports its steps has the limit that was asked for, if one was."""
    if not gives_signs:
        return asked_seconds if beat is not None and beat.steps_here and beat.phase is None else None
    if beat is None or not beat.beats:
        return START_SECONDS
    in_steps = asked_seconds or max(SHORTEST_SECONDS, STEPS * beat.longest_step_seconds)
    if beat.phase is not None:
        return max(beat.patience_seconds, in_steps)
    return in_steps if beat.steps_here else max(FIRST_STEP_SECONDS, in_steps)


@dataclass
class _Seen:
    mark: int = -1
    silent: float = 0.0
    stopped: float = 0.0


class Watch:
    """Of one launcher over its own ranks of one round."""

    def __init__(
        self, asked_seconds: float | None, *, gives_signs: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`gives_signs`: they train a recipe; the making of a variant, or a program of the user's, may give none for
        long."""
        self._asked_seconds, self._gives_signs, self._now = asked_seconds, gives_signs, now
        self._looked_at: float | None = None
        self._seen: dict[int, _Seen] = {}

    @property
    def stopped_seconds(self) -> float:
        """How long a rank may be stopped."""
        return self._asked_seconds or SHORTEST_SECONDS

    def is_due(self) -> bool:
        """Is it time for another look?"""
        return self._looked_at is None or self._now() - self._looked_at >= LOOK_SECONDS

    def look(self, ranks: Sequence[tuple[int, int, Path]]) -> list[Sight]:
        """What the running `ranks` (number, process id, page) show now."""
        now = self._now()
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, 2 * LOOK_SECONDS)
        self._looked_at = now
        return [self._sight(rank, read_beat(page), passed, stopped=is_stopped(pid)) for rank, pid, page in ranks]

    def _sight(self, rank: int, beat: Beat | None, passed: float, *, stopped: bool) -> Sight:
        seen = self._seen.setdefault(rank, _Seen())
        beats = beat.beats if beat is not None else 0
        seen.silent = seen.silent + passed if beats == seen.mark else 0.0
        seen.mark = beats
        seen.stopped = seen.stopped + passed if stopped else 0.0
        limit = limit_of(beat, self._asked_seconds, gives_signs=self._gives_signs)
        return Sight(
            rank=rank,
            step=beat.step if beat is not None else 0,
            beats=beat.beats_of_step if beat is not None else 0,
            silent_milliseconds=int(1000 * seen.silent),
            limit_milliseconds=None if limit is None else int(1000 * limit),
            stopped_milliseconds=int(1000 * seen.stopped),
        )


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal, not by a debugger. False where nobody says (not Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False
