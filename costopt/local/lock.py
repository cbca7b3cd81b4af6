"""One runner per run folder."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from costopt.hostile import Hostile, lock_file, read_json
from costopt.local.models import damaged
from costopt.local.processes import is_alive, start_time
from costopt.refused import Refused

LET_GO_SECONDS = 5.0
"""How long to wait for the lock of a process that is dead. A child that it had just forked shares its open files until
the child runs its own program, so the lock can outlive its holder by a moment."""

MAX_LOCK_BYTES = 4096


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock, or last held it."""

    pid: int
    started: str | None

    @property
    def alive(self) -> bool:
        """Whether it still lives, and so still holds the lock."""
        return is_alive(self.pid, self.started)


def holder_of(path: Path) -> Holder | None:
    """Who wrote itself into the lock file last; None if nobody did."""
    try:
        data = read_json(path, max_bytes=MAX_LOCK_BYTES)
        return Holder(int(data["pid"]), data["started"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


@contextlib.contextmanager
def only_runner(path: Path) -> Iterator[None]:
    """Hold the run folder's lock; the kernel lets go of it when this process ends, however it ends.

    Raises Refused, naming the process, if another one holds it, and if the lock is no plain file.
    """
    try:
        descriptor = lock_file(path)
    except Hostile as error:
        raise damaged(path, str(error), "remove it") from None
    try:
        give_up = time.monotonic() + LET_GO_SECONDS
        while not _taken(descriptor):
            holder = holder_of(path)
            if (holder and holder.alive) or time.monotonic() > give_up:
                who = f"process {holder.pid}" if holder else "another process"
                stop = f" (`kill -INT {holder.pid}`)" if holder else ""
                raise Refused(f"{path.parent} is being run by {who}; wait for its end, or suspend it{stop}")
            time.sleep(0.02)
        text = json.dumps({"pid": os.getpid(), "started": start_time(os.getpid())}) + "\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
