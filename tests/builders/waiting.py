"""Waiting for events in another process."""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

LOOK_EVERY_SECONDS = 0.05


def wait_for(read: Callable[[], Answer], what: str = "so", seconds: float = 240.0) -> Answer:
    """The first true answer of `read`. AssertionError, with the last one, if there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := read()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not {what} after {seconds:.0f} s: {answer!r}")
        time.sleep(LOOK_EVERY_SECONDS)
    return answer
