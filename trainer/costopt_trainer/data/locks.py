"""A lock that one process at a time holds, for what is made once in a folder that all ranks share.

locked      hold the lock, and tell the holder's progress while another has it
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from costopt.hostile import Hostile, append_file
from costopt.schema.replica import PhaseName
from costopt_trainer.phases import phase

LOCK_EVERY_SECONDS = 0.1
"""Between two tries to take a lock that another process holds."""


@contextlib.contextmanager
def locked(
    path: Path,
    name: PhaseName,
    made: Callable[[], int | None],
    num_bytes: int | None,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Held by one process at a time; released by the system if its holder dies. `meanwhile` is called again and again
    by those who wait.

    A waiting process is in the phase `name`, and reports how much of `num_bytes` the holder has `made`, as it grows.
    Raises Hostile if a link or the like is there.
    """
    with _lock_file(path) as stream:
        if not _take(stream):
            known = made()
            with phase(name) as pieces:
                while not _take(stream):
                    meanwhile()
                    time.sleep(LOCK_EVERY_SECONDS)
                    before, known = known, made()
                    if known is not None and known != before:
                        pieces.done(known, num_bytes)
        yield


def _lock_file(path: Path) -> BinaryIO:
    try:
        return append_file(path)
    except Hostile as error:
        raise Hostile(f"{path} {error}: remove it") from error


def _take(stream: BinaryIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
