"""The process above one launcher: `costopt.local.supervisor FOLDER [LOCK_FD]`.

It starts the launcher named in the folder's replica.json, beats while the launcher lives, and writes down its end. It
imports neither torch nor pydantic, so that it starts at once and costs nothing to keep.

    SIGTERM, or the end of its own lifeline   SIGTERM to the launcher, then at most 30 s to save a checkpoint
    SIGUSR1                                   the same with at most 5 s: the gang is broken, there is little to save
    SIGUSR2                                   kill at once

Then everything left of the replica is killed, and only then ended.json written: an end that is written down is final.
The folder's lock is held from birth (handed over by the runner) to death, so whether it can be taken tells for certain
whether a supervisor lives. Starting a second one for the same replica does nothing.
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from costopt.hostile import Hostile, append_file, lock_file, read_json
from costopt.isolation import passed_on
from costopt.local.files import write_json
from costopt.local.processes import kill_replica, start_time
from costopt.names import ENV_LIFELINE_FD, ENV_REPLICA_UID
from costopt.oom_kills import count_oom_kills

LAUNCH_RECORD_FILE = "replica.json"
LOCK_FILE = "lock"
SUPERVISOR_FILE = "supervisor.json"
HEARTBEAT_FILE = "heartbeat"
END_FILE = "ended.json"

HEARTBEAT_SECONDS = 1.0
GRACE_SECONDS = 30.0
"""For a checkpoint: as long as Kubernetes gives a pod by default."""
BROKEN_GANG_GRACE_SECONDS = 5.0

_GRACE_OF_SIGNAL = {signal.SIGTERM: GRACE_SECONDS, signal.SIGUSR1: BROKEN_GANG_GRACE_SECONDS, signal.SIGUSR2: 0.0}


class Stop:
    """Whether the launcher must end, and by when."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        """On the monotonic clock; None: not to end."""
        self._asked = False

    def within(self, seconds: float) -> None:
        """Ask for an end in at most `seconds`; a later request may only bring it forward."""
        deadline = time.monotonic() + seconds
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def ask(self, launcher: subprocess.Popen[bytes]) -> None:
        """Send SIGTERM once: launchers may treat a second one as a demand to end at once."""
        if self.deadline is not None and not self._asked:
            self._asked = True
            launcher.send_signal(signal.SIGTERM)


def supervise(folder: Path, lock_fd: int | None) -> None:
    """Run the replica in `folder` to its end, unless it has been started before."""
    stop, woken = _listen()
    if not _owns(folder, lock_fd) or any((folder / name).exists() for name in (SUPERVISOR_FILE, END_FILE)):
        return
    launch = read_json(folder / LAUNCH_RECORD_FILE)
    uid = str(launch["uid"])
    started_at = _now()
    about = {"pid": os.getpid(), "pidStarted": start_time(os.getpid()), "startedAt": started_at.isoformat()}
    _beat(folder)
    write_json(folder / SUPERVISOR_FILE, about)

    oom_kills_before = count_oom_kills()
    lifeline, holding = os.pipe()
    environment = {**passed_on(), ENV_REPLICA_UID: uid, ENV_LIFELINE_FD: "0"}
    try:
        launcher = subprocess.Popen(launch["argv"], stdin=lifeline, env=environment, start_new_session=True)
    except OSError as error:
        print(f"cannot start {launch['argv'][0]}: {error.strerror}", file=sys.stderr, flush=True)
        _write_end(folder, 127 if isinstance(error, FileNotFoundError) else 126, started_at)  # as a shell would say
        return
    os.close(lifeline)
    write_json(folder / SUPERVISOR_FILE, {**about, "launcherPid": launcher.pid})

    _watch(folder, launcher, stop, woken)
    if launcher.poll() is None:
        launcher.kill()
    kill_replica(uid, launcher.pid)
    code = launcher.wait()
    # A launcher that was told to end may have been killed by its supervisor.
    memory_ran_out = stop.deadline is None and (count_oom_kills() or 0) > (oom_kills_before or 0)
    _write_end(folder, code, started_at, out_of_memory=code == -signal.SIGKILL and memory_ran_out)
    os.close(holding)


def _watch(folder: Path, launcher: subprocess.Popen[bytes], stop: Stop, woken: int) -> None:
    """Return when the launcher has ended, or when its time to end is over."""
    watched = [0, woken]
    while launcher.poll() is None:
        stop.ask(launcher)
        wait = HEARTBEAT_SECONDS
        if stop.deadline is not None:
            wait = min(wait, stop.deadline - time.monotonic())
            if wait <= 0:
                return
        readable, _, _ = select.select(watched, [], [], wait)
        if woken in readable:
            os.read(woken, 4096)
        if 0 in readable and not os.read(0, 4096):
            watched.remove(0)
            stop.within(GRACE_SECONDS)
        _beat(folder)


def _listen() -> tuple[Stop, int]:
    """Install the signal handlers; also returns the descriptor that becomes readable on any signal."""
    stop = Stop()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def on_stop(number: int, _frame: FrameType | None) -> None:
        stop.within(_GRACE_OF_SIGNAL[signal.Signals(number)])

    for number in _GRACE_OF_SIGNAL:
        signal.signal(number, on_stop)
    # The runner handles a terminal's signals. Not SIG_IGN, which the launcher would inherit.
    # What the user's shell ignores (nohup) stays so, also for the user's program.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
    return stop, woken


def _owns(folder: Path, lock_fd: int | None) -> bool:
    """Hold the folder's lock until this process ends; False if another supervisor holds it."""
    if lock_fd is not None:  # taken by the runner before it started us; one open file, so one lock
        os.set_inheritable(lock_fd, False)
        return True
    descriptor = lock_file(folder / LOCK_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _beat(folder: Path) -> None:
    """Write the heartbeat; a full disk must not end the replica."""
    with contextlib.suppress(OSError, Hostile):
        path = folder / HEARTBEAT_FILE
        append_file(path).close()
        now = time.time_ns()
        os.utime(path, ns=(now, now), follow_symlinks=False)


def _write_end(folder: Path, exit_code: int, started_at: datetime, *, out_of_memory: bool = False) -> None:
    ended_at = max(started_at, _now())
    write_json(
        folder / END_FILE,
        {
            "exitCode": exit_code,
            "outOfMemory": out_of_memory,
            "startedAt": started_at.isoformat(),
            "endedAt": ended_at.isoformat(),
            "estimated": False,
        },
    )


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    try:
        supervise(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
    except Hostile as refusal:
        sys.exit(f"a file of {sys.argv[1]} {refusal}")
