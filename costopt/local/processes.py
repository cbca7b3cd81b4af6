"""Which processes belong to a replica, and how they are killed.

A process id alone names nobody: ids are given out again. So a process is known by its id and when it started, and the
processes of a replica by a mark in their environment, which children inherit, also those that leave their parent's
process group or lose their parent. Only the standard library, for the supervisor.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from costopt.names import ENV_REPLICA_UID

KILL_PATIENCE_SECONDS = 10.0
"""A killed process may live on while the kernel finishes a write for it."""

_PROC = Path("/proc")
_START_TIME_FIELD = 19
"""Of /proc/<pid>/stat, counted from 0 behind the command's closing bracket; see proc_pid_stat(5)."""


def start_time(pid: int) -> str | None:
    """When the process started, as an opaque text; None when there is no such process (or only its zombie)."""
    if sys.platform == "linux":
        try:
            after_command = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if after_command[0] in "ZX" else after_command[_START_TIME_FIELD]
    return _ps("-o", "lstart=", "-p", str(pid)).strip() or None


def is_alive(pid: int, started: str | None) -> bool:
    """Whether the process of that id is still the one that started then."""
    return started is not None and start_time(pid) == started


def signal_process(pid: int, started: str | None, number: signal.Signals) -> bool:
    """Send a signal if the process is still the same; False when it has gone."""
    if not is_alive(pid, started):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_replica(uid: str, launcher_pid: int | None) -> list[int]:
    """SIGKILL every process of the replica, and those they start meanwhile; returns the ids that were killed.

    Returns after at most `KILL_PATIENCE_SECONDS`, even if the kernel has not let go of one yet.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + KILL_PATIENCE_SECONDS
    while (found := processes_of(uid, launcher_pid)) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.01)
    return sorted(killed)


def processes_of(uid: str, launcher_pid: int | None) -> list[int]:
    """Ids of the living processes of a replica, without the caller's own.

    Without /proc: the launcher's descendants and process group, which misses what has left both.
    """
    if sys.platform == "linux":
        mark = f"{ENV_REPLICA_UID}={uid}".encode()
        pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if pid != os.getpid() and mark in _environment(pid)]
    return [] if launcher_pid is None else family(launcher_pid)


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def family(pid: int) -> list[int]:
    """The process, its descendants, and the members of the group it leads, as `ps` lists them."""
    rows = [line.split() for line in _ps("-A", "-o", "pid=,ppid=,pgid=,stat=").splitlines()]
    alive = {int(row[0]): (int(row[1]), int(row[2])) for row in rows if len(row) == 4 and not row[3].startswith("Z")}
    found = {child for child, (_, group) in alive.items() if pid in (child, group)}
    while more := {child for child, (parent, _) in alive.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout  # noqa: S607
