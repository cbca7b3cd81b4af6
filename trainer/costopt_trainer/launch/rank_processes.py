"""The ranks of one replica as processes: started together, told to stop, watched, ended.

Each rank leads its own process group (a Ctrl-C at a terminal does not reach it), in the launcher's session (so a
supervisor finds it there). SIGTERM goes only to the rank, not to its group: data loading processes that die first
would make the rank fail before it has saved.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from costopt.isolation import passed_on
from costopt.names import ENV_HEARTBEAT_FILE, ENV_LAUNCHER_PID
from costopt.schema.replica import EXIT_DONE
from costopt_trainer.heartbeat import Beat, make_page, read_beat
from costopt_trainer.launch.hangs import is_stopped
from costopt_trainer.launch.log_relay import RankOutput, Sink
from costopt_trainer.launch.rank_error import ERROR_FILE_VARIABLE, RankError, error_from_lines, read_error
from costopt_trainer.launch.termination_message import LOG_TAIL_LINES, RankEnd

FAILURE_GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL for ranks whose peer has failed: most hang in a collective and cannot save."""
ECHO_PAUSE_SECONDS = 1.0
"""After a failure that looks like an echo, how long to wait for its cause before ranks are ended."""
LEFTOVER_SECONDS = 1.0
"""How long a rank's own children may outlive it; data loaders and shared-memory trackers clean up by then."""
DRAIN_SECONDS = 2.0
STACKS_SECONDS = 2.0
"""How long ranks that hang may take to print their stacks."""
STACKS_BEGIN = "(most recent call first)"
"""In the first line of each stack that faulthandler prints."""
POLL_SECONDS = 0.05


@dataclass
class _Running:
    rank: int
    process: subprocess.Popen[bytes]
    output: RankOutput
    error_file: Path
    page: Path
    """Where it leaves signs of work."""
    end: RankEnd | None = None
    has_leftovers: bool = False
    """Whether processes of its group were alive right after it ended; only then may the group be signalled later."""


class LocalRanks:
    """All ranks of this replica, in one round after the other. Methods may be called from several threads."""

    def __init__(self, scratch: Path, sink: Sink, *, failure_grace_seconds: float = FAILURE_GRACE_SECONDS) -> None:
        """`scratch`: an empty folder for what ranks leave: error files, signs of work."""
        self._scratch = scratch
        self._sink = sink
        self._failure_grace_seconds = failure_grace_seconds
        self._lock = threading.RLock()
        self._ranks: list[_Running] = []
        self._told_to_stop = False
        self._ending_since: float | None = None

    def start(self, argv: Sequence[str], environments: Mapping[int, Mapping[str, str]]) -> list[int]:
        """Start one process per rank of `environments` (additions to this process' own); the process ids, in order.

        The calling thread must live as long as the ranks: the kernel ends them with it.
        """
        with self._lock:
            for rank, additions in environments.items():
                error_file = self._scratch / f"rank-{rank}.json"
                error_file.unlink(missing_ok=True)
                page = self._scratch / f"rank-{rank}.page"
                make_page(page)
                process = subprocess.Popen(
                    argv,
                    env=passed_on()
                    | dict(additions)
                    | {ERROR_FILE_VARIABLE: str(error_file), ENV_HEARTBEAT_FILE: str(page)}
                    | {ENV_LAUNCHER_PID: str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    process_group=0,
                )
                output = RankOutput(self._sink, b"" if rank == 0 else b"[rank %d] " % rank)
                output.relay(process.stdout, is_stderr=False)
                output.relay(process.stderr, is_stderr=True)
                self._ranks.append(_Running(rank, process, output, error_file, page))
            return [rank.process.pid for rank in self._ranks]

    def forget(self) -> bool:
        """Let go of ranks that have all ended, so that others can be started; False, and nothing, once told to stop."""
        with self._lock:
            if self._told_to_stop:
                return False
            self._ranks = []
            self._ending_since = None
            return True

    @contextlib.contextmanager
    def stopping(self) -> Iterator[bool]:
        """Send SIGTERM to every rank; True if there were any. Inside the block none can start."""
        with self._lock:
            self._told_to_stop = True
            for running in self._ranks:
                if running.end is None:
                    _signal(running.process.pid, signal.SIGTERM)
            yield bool(self._ranks)

    @property
    def told_to_stop(self) -> bool:
        """Whether `stopping` was entered."""
        return self._told_to_stop

    @property
    def ends(self) -> list[RankEnd]:
        """How the ranks that have ended did so."""
        return [running.end for running in self._ranks if running.end is not None]

    @property
    def running(self) -> list[tuple[int, int, Path]]:
        """Number, process id and page of the ranks that run."""
        return [(one.rank, one.process.pid, one.page) for one in self._ranks if one.end is None]

    @property
    def beats(self) -> list[Beat | None]:
        """What all ranks have left, the first one's first; None for one whose page is gone."""
        return [read_beat(one.page) for one in self._ranks]

    def first_lines(self) -> list[str]:
        """The last lines of the first rank, the oldest first."""
        return [line.text for line in tuple(self._ranks[0].output.lines)] if self._ranks else []

    def show_stacks(self) -> None:
        """Have each running rank print the stacks of its threads; one that cannot is named in the log."""
        asked: list[_Running] = []
        with self._lock:
            for running in self._ranks:
                beat = read_beat(running.page)
                if running.end is not None or beat is None or not beat.shows_stacks:
                    continue
                if is_stopped(running.process.pid):
                    note = f"costopt: rank {running.rank} is stopped (SIGSTOP) and cannot show its stack\n"
                    self._sink.write(note.encode())
                    continue
                self._sink.write(f"costopt: stacks of rank {running.rank}:\n".encode())
                _signal(running.process.pid, signal.SIGUSR1)
                asked.append(running)
        deadline = time.monotonic() + STACKS_SECONDS
        while asked and time.monotonic() < deadline:
            asked = [one for one in asked if not any(STACKS_BEGIN in line.text for line in tuple(one.output.lines))]
            time.sleep(POLL_SECONDS)

    def poll(self, on_failure: Callable[[], None] = lambda: None) -> bool:
        """Check which ranks have ended, and end all others if one failed; True once there is nothing to wait for.

        That is: all have ended, or the rest cannot be ended even by SIGKILL (stuck in a driver).

        A rank that stopped because it was told to is no failure: the others get all the time they need to save.
        `on_failure` is called before those others are ended, which may take seconds.
        """
        self._look()
        failed = [end for end in self.ends if end.exit_code != EXIT_DONE and not end.preempted]
        if failed and not self._all_ended() and all(end.is_echo for end in failed):
            self._wait(ECHO_PAUSE_SECONDS)
        done = bool(failed) or self._all_ended()
        if failed:
            on_failure()
        if done:
            self.end()
        return done

    def end(self) -> None:
        """End all ranks (SIGTERM, then SIGKILL after the grace period) and whatever they left running."""
        if not self._all_ended():
            self._ending_since = time.time()
            for running in self._ranks:
                if running.end is None:
                    _signal(running.process.pid, signal.SIGTERM)
            if not self._wait(self._failure_grace_seconds):
                for running in self._ranks:
                    if running.end is None:
                        _signal_group(running.process.pid, signal.SIGKILL)
                self._wait(self._failure_grace_seconds)
        self._end_leftovers()

    def _all_ended(self) -> bool:
        return all(running.end is not None for running in self._ranks)

    def _wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._all_ended() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            self._look()
        return self._all_ended()

    def _look(self) -> None:
        with self._lock:  # so that `stopping` never signals a process id that is no longer ours
            ended = [running for running in self._ranks if running.end is None and running.process.poll() is not None]
            for running in ended:
                running.has_leftovers = _signal_group(running.process.pid, 0)
            for running in ended:
                running.end = self._make_end(running)

    def _make_end(self, running: _Running) -> RankEnd:
        seen = time.time()
        code = running.process.returncode
        error: RankError | None = None
        if code != EXIT_DONE:
            running.output.finish(DRAIN_SECONDS)
            error = read_error(running.error_file)
            # A rank that was killed did not get to say why: an older traceback among its lines is not the reason.
            if error is None and code not in (-signal.SIGKILL, -signal.SIGTERM):
                error = error_from_lines(tuple(running.output.lines))
        failed_at = min(seen, error.time) if error is not None and error.time is not None else seen
        return RankEnd(
            rank=running.rank,
            exit_code=code,
            time=failed_at,
            error=error,
            by_itself=self._ending_since is None or failed_at < self._ending_since,
            told_to_stop=self._told_to_stop,
            log_tail=running.output.tail(LOG_TAIL_LINES),
        )

    def _end_leftovers(self) -> None:
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while left := [running for running in self._ranks if running.has_leftovers]:
            late = time.monotonic() > deadline
            for running in left:
                running.has_leftovers = _signal_group(running.process.pid, signal.SIGKILL if late else 0) and not late
            time.sleep(POLL_SECONDS)
        for running in self._ranks:
            running.output.finish(DRAIN_SECONDS)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; True if it still exists."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
