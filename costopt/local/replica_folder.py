"""What lies in a replica's folder, `replicas/<child>-<index>/`, in the order in which it is written.

    settings.json     by the runner: what the launcher is told
    lock              held by the supervisor as long as it lives
    replica.json      by the runner: `LaunchRecord`, before anything is started
    supervisor.json   by the supervisor: `Supervised`, before the launcher is started
    heartbeat         by the supervisor: its time of change says when the replica was last known to live
    progress.json     by the launcher's ranks: schema.replica.Progress, again and again
    stop.json         by the runner: `StopRequest`, if the replica was told to end
    termination.json  by the launcher: schema.replica.TerminationMessage
    ended.json        by the supervisor (or by `lost_replicas` in its place): `End`; final

Every file is whole or not there. All but progress and heartbeat are written once, so whatever is derived from an ended
replica's folder is derived the same each time. What the shell has written and cannot read is refused in a sentence: a
replica that is not understood would not be billed. What the job's own processes write may be anything.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from costopt.hostile import Hostile, lock_file, make_folder
from costopt.local.files import modified_at_ns, version_of, write_json
from costopt.local.models import Model, damaged, read_ours, read_theirs
from costopt.local.supervisor import END_FILE, HEARTBEAT_FILE, LAUNCH_RECORD_FILE, LOCK_FILE, SUPERVISOR_FILE
from costopt.plan.actions import StopReason
from costopt.refused import Refused
from costopt.render.processes import PROGRESS_FILE, TERMINATION_FILE
from costopt.schema.base import Count, DecimalString, Name, ShortText, Strict, Timestamp
from costopt.schema.replica import Progress, TerminationMessage
from costopt.schema.usage import CapacityType

STOP_FILE = "stop.json"

REMEDY = "restore it, or run the job in a new folder"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LaunchRecord(Strict):
    """What is fixed before a replica starts."""

    uid: ShortText
    """Key of its usage record: its name and a random part, so that no two replicas ever share one."""
    stage: Name
    """Stage it belongs to."""
    attempt: Count
    """Attempt it belongs to."""
    index: Count
    """Completion index."""
    argv: list[str]
    """The launcher's command line."""
    resources: dict[ShortText, DecimalString]
    """What it holds while it lives, in base units."""
    product: ShortText | None = None
    """Model of the GPUs it holds."""
    capacity_type: CapacityType = "OnDemand"
    """Kind of capacity it holds."""
    has_meter: bool = True
    """False: it runs the user's own program, which need not report where its time goes."""
    created_at: Timestamp
    """When its start was decided."""


class Supervised(Strict):
    """Its supervisor."""

    pid: int
    """The supervisor's process id."""
    pid_started: str | None
    """When that process started (see processes.start_time), so that another of the same id is not taken for it."""
    started_at: Timestamp
    """When the launcher was started: its time counts from here."""
    launcher_pid: int | None = None
    """The launcher's process id; None if it was not started yet."""


class StopRequest(Strict):
    """Why it was told to end; the first reason stays."""

    reason: StopReason
    """The plan's reason."""


class End(Strict):
    """How it ended."""

    exit_code: int | None = None
    """The launcher's exit code; negative: the signal that killed it. None when nobody saw its end."""
    out_of_memory: bool = False
    """True: the kernel killed it because memory ran out."""
    started_at: Timestamp
    """When its time began."""
    ended_at: Timestamp
    """When its last process ended, or was last known to live."""
    estimated: bool
    """True: its supervisor was killed, so `ended_at` is its last heartbeat."""


class ReplicaFolder:
    """One replica's folder; the files are read anew at each call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """`<child>-<index>`."""
        return self.path.name

    def make(self) -> None:
        """Make the folder, if it is not there. Raises Refused if a link has its name."""
        try:
            make_folder(self.path)
        except Hostile as error:
            raise Refused(str(error)) from None

    def launch_record(self) -> LaunchRecord | None:
        """None: the runner was killed before it wrote anything, so there never was a process."""
        return self._read(LAUNCH_RECORD_FILE, LaunchRecord)

    def supervised(self) -> Supervised | None:
        """None: no supervisor has started yet."""
        return self._read(SUPERVISOR_FILE, Supervised)

    def end(self) -> End | None:
        """None: it lives, or nobody has written down its end."""
        return self._read(END_FILE, End)

    def stop_request(self) -> StopRequest | None:
        """None: it has not been told to end."""
        return self._read(STOP_FILE, StopRequest)

    def progress(self) -> Progress | None:
        """Its latest report; None if there is none, or none that can be read (a user's command may write anything)."""
        return read_theirs(self.path / PROGRESS_FILE, Progress)

    def termination(self) -> TerminationMessage | None:
        """What it said at its end, if it said something that can be read."""
        return read_theirs(self.path / TERMINATION_FILE, TerminationMessage)

    def write(self, file: str, content: Strict) -> None:
        """Write one of the files above."""
        write_json(self.path / file, content.to_plain())

    def last_heartbeat(self) -> datetime | None:
        """When it was last known to be alive."""
        return _time(modified_at_ns(self.path / HEARTBEAT_FILE))

    def activity(self, log_file: Path) -> str:
        """Differs once it has reported progress or logged a line; this is compared with itself, and with no clock."""
        return " ".join(str(version_of(path)) for path in (self.path / PROGRESS_FILE, log_file))

    def is_unwatched(self) -> bool:
        """Whether no supervisor is alive although the end of the replica is not recorded."""
        with self.locked() as lock:
            return lock is not None and self.end() is None

    @contextlib.contextmanager
    def locked(self) -> Iterator[int | None]:
        """Hold the lock and yield its descriptor; None if a supervisor holds it, that is, lives."""
        try:
            descriptor = lock_file(self.path / LOCK_FILE)
        except Hostile as error:
            raise damaged(self.path / LOCK_FILE, str(error), "remove it") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield descriptor
        finally:
            os.close(descriptor)

    def _read(self, file: str, model: type[Model]) -> Model | None:
        return read_ours(self.path / file, model, REMEDY)


def _time(nanoseconds: int | None) -> datetime | None:
    # Whole microseconds, not through a float, whose rounding could put a time into the future.
    return None if nanoseconds is None else _EPOCH + timedelta(microseconds=nanoseconds // 1000)
