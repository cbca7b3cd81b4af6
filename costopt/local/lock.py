"""One runner per run folder."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from costopt.local.files import read_if_there
from costopt.local.processes import is_alive, start_time
from costopt.local.refused import Refused


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
        data = json.loads(read_if_there(path) or "")
        return Holder(int(data["pid"]), data["started"])
    except (ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def only_runner(path: Path) -> Iterator[None]:
    """Hold the run folder's lock; the kernel lets go of it when this process ends, however it ends.

    Raises Refused, naming the process, if another one holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = holder_of(path)
            who = f"process {holder.pid}" if holder else "another process"
            stop = f" (`kill -INT {holder.pid}`)" if holder else ""
            raise Refused(f"{path.parent} is being run by {who}; wait for its end, or suspend it{stop}") from None
        text = json.dumps({"pid": os.getpid(), "started": start_time(os.getpid())}) + "\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        yield
    finally:
        os.close(descriptor)
