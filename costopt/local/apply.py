"""Starting and stopping gangs. Both are idempotent."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from io import BufferedWriter
from pathlib import Path

from costopt.files import write_atomically
from costopt.hostile import Hostile, append_file
from costopt.isolation import own_program, passed_on
from costopt.local.devices import Devices
from costopt.local.models import damaged
from costopt.local.processes import signal_process
from costopt.local.replica_folder import STOP_FILE, LaunchRecord, ReplicaFolder, StopRequest
from costopt.local.run_folder import RunFolder
from costopt.local.supervisor import LAUNCH_RECORD_FILE
from costopt.names import RESERVED_ENVIRONMENT, child_name
from costopt.plan.actions import StartGang, StopGang
from costopt.plan.observed import Replica
from costopt.render.processes import LOOPBACK, Process, processes
from costopt.render.settings import LAUNCHER_MODULE, SETTINGS_FILE
from costopt.schema.job import CostOptJob
from costopt.schema.resources import GPU_RESOURCE

_URGENCY = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals to a supervisor, each more urgent than the one before; see supervisor.py."""

SUPERVISOR_END_SECONDS = 5.0
"""Longer than an idle supervisor needs to end."""


class Gangs:
    """The gangs of one job, and the lifelines of the supervisors that this process has started."""

    def __init__(self, run_folder: RunFolder, job: CostOptJob, devices: Devices, argv: tuple[str, ...] = ()) -> None:
        self._run_folder = run_folder
        self._job = job
        self._devices = devices
        self._argv = argv
        """Run instead of the launcher; empty: the launcher."""
        self._supervisors: dict[str, subprocess.Popen[bytes]] = {}
        """Supervisors that this process has started, by replica name."""
        self._signalled: dict[str, signal.Signals] = {}

    def start(self, gang: StartGang, now: datetime) -> None:
        """Create and start the replicas of an attempt; none, if the attempt was begun before.

        An attempt that was begun by a runner which was killed is not completed: its first replicas have lost their
        lifeline and are ending, so the gang is broken.
        """
        drawn = self._draw(gang)
        if any((Path(process.folder) / LAUNCH_RECORD_FILE).exists() for process in drawn):
            return
        with contextlib.ExitStack() as locks:
            held = [(process, self._create(process, now, locks)) for process in drawn]
            for process, lock in held:
                self._spawn(process, lock)

    def stop(self, gang: StopGang, replicas: Iterable[Replica]) -> None:
        """Tell the running replicas of the gang to end."""
        number = signal.SIGTERM if gang.checkpoint else signal.SIGUSR1
        for replica in replicas:
            if replica.live and (replica.stage, replica.attempt) == (gang.stage, gang.attempt):
                folder = self._folder_of(replica)
                if folder.stop_request() is None:
                    folder.write(STOP_FILE, StopRequest(reason=gang.reason))
                self._signal(replica, folder, number)

    def kill(self, replicas: Iterable[Replica]) -> None:
        """End all replicas now, without a checkpoint."""
        for replica in replicas:
            if replica.live:
                folder = self._folder_of(replica)
                if folder.stop_request() is None:
                    folder.write(STOP_FILE, StopRequest(reason="SuspendRequested"))
                self._signal(replica, folder, signal.SIGUSR2)

    def reap(self) -> None:
        """Collect the exit codes of ended supervisors, so that no zombies remain."""
        for supervisor in self._supervisors.values():
            supervisor.poll()

    def supervisor_code(self, name: str) -> int | None:
        """Exit code of the supervisor of a replica whose lock is free; None: another process has started it."""
        supervisor = self._supervisors.get(name)
        if supervisor is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):  # it lets go of the lock a moment before its end
            return supervisor.wait(SUPERVISOR_END_SECONDS)
        return None

    def wait(self) -> None:
        """Wait for the supervisors of replicas that have all ended; having written that down, they end at once."""
        for supervisor in self._supervisors.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisor.wait(SUPERVISOR_END_SECONDS)

    def _draw(self, gang: StartGang) -> tuple[Process, ...]:
        return processes(
            self._job,
            gang.stage,
            gang.attempt,
            run_dir=self._run_folder.path,
            working_dir=Path.cwd(),
            launcher=own_program(LAUNCHER_MODULE),
            rendezvous_port=str(free_port()),
            devices=self._devices.ids,
        )

    def _create(self, process: Process, now: datetime, locks: contextlib.ExitStack) -> int:
        """Write a replica's folder and take its lock, which its supervisor inherits."""
        folder = ReplicaFolder(Path(process.folder))
        self._run_folder.make_folders()
        folder.make()
        resources = self._job.spec.resources_of(process.stage).effective()
        write_atomically(folder.path / SETTINGS_FILE, process.settings.encode())
        lock = locks.enter_context(folder.locked())
        if lock is None:
            raise RuntimeError(f"{folder.path} is locked although nothing was started in it")
        folder.write(
            LAUNCH_RECORD_FILE,
            LaunchRecord(
                uid=f"{process.name}-{secrets.token_hex(4)}",
                stage=process.stage,
                attempt=process.attempt,
                index=process.index,
                argv=list(self._argv or process.argv),
                resources={name: format(quantity, "f") for name, quantity in resources.items()},
                product=self._devices.product if resources.get(GPU_RESOURCE) else None,
                has_meter=not self._job.spec.runs_command(process.stage),
                created_at=now,
            ),
        )
        return lock

    def _spawn(self, process: Process, lock: int) -> None:
        inherited = {name: value for name, value in passed_on().items() if name not in RESERVED_ENVIRONMENT}
        # `python3` in a user's command is the interpreter with torch, even if no virtual environment is active.
        inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        with _log_of(process) as log:
            supervisor = subprocess.Popen(
                own_program("costopt.local.supervisor", process.folder, str(lock)),
                stdin=subprocess.PIPE,  # its lifeline: held open by this process, and by no other
                stdout=log,
                stderr=log,
                env=inherited | process.environment,
                cwd=process.working_dir,
                pass_fds=(lock,),
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )
        self._supervisors[process.name] = supervisor

    def _signal(self, replica: Replica, folder: ReplicaFolder, number: signal.Signals) -> None:
        """Signal the replica's supervisor once for each urgency; one that is not yet listening, at the next call."""
        before = self._signalled.get(replica.uid)
        if before is not None and _URGENCY.index(before) >= _URGENCY.index(number):
            return
        supervised = folder.supervised()
        if supervised is not None and signal_process(supervised.pid, supervised.pid_started, number):
            self._signalled[replica.uid] = number

    def _folder_of(self, replica: Replica) -> ReplicaFolder:
        child = child_name(self._job.metadata.name, replica.stage, replica.attempt)
        drawn = self._run_folder.replica_path(f"{child}-{replica.index}")
        return ReplicaFolder(drawn)


def _log_of(process: Process) -> BufferedWriter:
    path = Path(process.log_file)
    try:
        return append_file(path)
    except Hostile as error:
        raise damaged(path, str(error), "remove it") from None


def free_port() -> int:
    """A TCP port of the loopback interface that is free now. Should another take it first, the attempt fails."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port
