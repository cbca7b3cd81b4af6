"""Figures of what was seen, told at the end of a run: benchmarks/README.md has them from one."""

import time
from collections.abc import Callable
from typing import Any

from e2e.jobs import wait_for

FIGURES: list[tuple[str, str, float]] = []
"""What happened, what came of it, and after how many seconds."""


class Since:
    """Seconds since something happened: `since = Since("SIGKILL of a rank")`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()

    def note(self, came: str) -> float:
        """Write down that this has come of it now."""
        seconds = time.monotonic() - self._began
        FIGURES.append((self._what, came, seconds))
        return seconds

    def until(self, read: Callable[[], Any], came: str, seconds: float = 240) -> float:
        """Wait for it, and write it down."""
        wait_for(read, came, seconds)
        return self.note(came)


def as_table() -> str:
    """All figures, for the terminal and for a page."""
    lines = ["| what happened | what came of it | after |", "|---|---|---|"]
    lines += [f"| {what} | {came} | {seconds:.0f} s |" for what, came, seconds in FIGURES]
    return "\n".join(lines)
