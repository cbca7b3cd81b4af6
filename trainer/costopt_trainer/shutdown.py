"""Whose end ends whom: the launcher stops when its supervisor goes, and a rank dies with its launcher.

watch_for_stop    SIGTERM, SIGINT, SIGHUP or the end of the lifeline -> one call of `on_stop`, from a thread
die_with_parent   the kernel (or a polling thread) kills this process as soon as its parent is gone
leave_at_once     this process ends, without destructors
"""

import contextlib
import ctypes
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

PR_SET_PDEATHSIG = 1
"""From Linux' <sys/prctl.h>: the signal this process gets when the thread that started it ends. It survives exec."""

PARENT_POLL_SECONDS = 0.5


def watch_for_stop(on_stop: Callable[[str], None], lifeline_fd: int | None) -> None:
    """Call `on_stop(why)` once, at the first stop signal or when the other end of `lifeline_fd` is closed.

    The call comes from a thread of its own, because the main thread may sit in torch's C++ for minutes, where Python
    runs no signal handlers. Later signals change nothing, and SIGINT and SIGHUP that are ignored
    already stay so. Raises OSError if `lifeline_fd` is not open.
    """
    if lifeline_fd is not None:
        os.fstat(lifeline_fd)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for stop_signal in STOP_SIGNALS:
        if stop_signal != signal.SIGTERM and signal.getsignal(stop_signal) == signal.SIG_IGN:
            continue  # as with nohup
        signal.signal(stop_signal, lambda _number, _frame: None)
        signal.siginterrupt(stop_signal, False)  # system calls of C++ code go on undisturbed
    threading.Thread(target=_watch, args=(on_stop, woken, lifeline_fd), name="stop-watch", daemon=True).start()


def _watch(on_stop: Callable[[str], None], woken: int, lifeline_fd: int | None) -> None:
    # poll, not epoll: a lifeline may be a regular file or /dev/null, which epoll refuses.
    with selectors.PollSelector() as selector:
        selector.register(woken, selectors.EVENT_READ)
        if lifeline_fd is not None:
            selector.register(lifeline_fd, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == woken:
                    numbers = [number for number in os.read(woken, 64) if number in STOP_SIGNALS]
                    if numbers:
                        on_stop(signal.Signals(numbers[0]).name)
                        return
                elif _has_ended(lifeline_fd):
                    on_stop("the end of the process that started it")
                    return


def _has_ended(lifeline_fd: int | None) -> bool:
    try:
        return lifeline_fd is None or os.read(lifeline_fd, 4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed when `parent_pid` ends, however it ends; returns only while the parent is alive.

    On Linux the kernel does it, for programs exec'd later too. Elsewhere a thread of this process looks twice a second.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    else:
        threading.Thread(target=poll_parent, args=(parent_pid,), name="parent-watch", daemon=True).start()
    if os.getppid() != parent_pid:  # it ended before the kernel was asked
        os._exit(1)


def poll_parent(parent_pid: int, on_orphaned: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Wait until this process' parent is no longer `parent_pid`, then call `on_orphaned`."""
    while os.getppid() == parent_pid:
        time.sleep(PARENT_POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        on_orphaned()


def leave_at_once(code: int) -> NoReturn:
    """End without running destructors, which may wait for ever.

    After a failure those of process groups and data loaders wait for ranks that are gone. Even when all went well, that
    of a gloo group waits, with Python's lock held, for a thread that needs this lock, if it is DDP that lets go of the
    group last (torch 2.13; about one run in ten).
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
