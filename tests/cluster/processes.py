"""Child processes that end with their parent, however it ends, and free ports for them."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class NotReadyError(Exception):
    """A program ended or did not become ready in time; the message has the end of its log."""


class Process:
    """One program with its log. On Linux the kernel kills it when its starter is gone, even by SIGKILL."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def start(self) -> None:
        """Start it, adding to its log. It does not get the starter's terminal signals: stopping is by order."""
        starter = os.getpid()

        def end_with_starter() -> None:
            if _LIBC is not None:
                _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != starter:
                    os._exit(1)

        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                start_new_session=True,
                preexec_fn=end_with_starter,  # noqa: PLW1509 - it takes no lock
            )

    def stop(self, with_signal: signal.Signals = signal.SIGTERM, patience_seconds: float = 10) -> None:
        """Signal it and wait; what outlives the patience is killed."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(with_signal)
        try:
            self._child.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    def wait_until(self, ready: Callable[[], bool], seconds: float = 240) -> None:
        """Return once `ready` says so; NotReadyError if the program ends or the time passes first."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid is None:
                raise NotReadyError(f"{self.name} ended:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise NotReadyError(f"{self.name} was not ready after {seconds:.0f} s:\n{self.log_tail()}")
            time.sleep(0.05)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        return ""
