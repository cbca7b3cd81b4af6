"""Waiting for events in another process, and what goes on meanwhile."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def meanwhile(act: Callable[[], object], every_seconds: float) -> Iterator[None]:
    """Meanwhile `act` is called again and again on a thread, so many seconds after its last return."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(every_seconds):
            act()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
