"""Ends replicas whose supervisor is gone: kills their remaining processes, then records when they last lived."""

from pathlib import Path

from costopt.local.files import last_text
from costopt.local.processes import kill_replica
from costopt.local.replica_folder import End, LaunchRecord, ReplicaFolder
from costopt.local.supervisor import END_FILE
from costopt.plan.foreign_text import one_line
from costopt.render.processes import TERMINATION_FILE
from costopt.schema.replica import TerminationMessage, log_lines

WORDS_LIMIT = 600
"""Characters kept of the last output of a process."""
LOG_LINE_LIMIT = 2000
LOG_TAIL_LINES = 20


def record_if_lost(
    folder: ReplicaFolder, launch: LaunchRecord, log_file: Path, supervisor_code: int | None = None
) -> None:
    """Write ended.json if no supervisor is alive to do it; does nothing for a replica that runs or has ended.

    `supervisor_code` is its supervisor's exit code, if known. A supervisor that ended by itself before it started
    anything is a failure: the next one would probably end the same way. One that was killed is a disruption.
    The lock is held meanwhile, so that a supervisor that is still starting finds the end and exits.
    """
    with folder.locked() as lock:
        if lock is None or folder.end() is not None:
            return
        supervised = folder.supervised()
        kill_replica(launch.uid, supervised.launcher_pid if supervised else None)
        if supervised is None:  # nothing was held
            code = supervisor_code if supervisor_code is not None and supervisor_code > 0 else None
            if code is not None:
                folder.write(TERMINATION_FILE, _last_words(launch, log_file, code))
            started = launch.created_at
            folder.write(END_FILE, End(exit_code=code, started_at=started, ended_at=started, estimated=False))
            return
        last_known = max(supervised.started_at, folder.last_heartbeat() or supervised.started_at)
        folder.write(END_FILE, End(started_at=supervised.started_at, ended_at=last_known, estimated=True))


def log_tail(log_file: Path) -> list[str]:
    """The last lines of a replica's log, safe to show."""
    lines = [one_line(line, LOG_LINE_LIMIT) for line in log_lines(last_text(log_file))]
    return [line for line in lines if line][-LOG_TAIL_LINES:]


def _last_words(launch: LaunchRecord, log_file: Path, code: int) -> TerminationMessage:
    lines = log_tail(log_file)
    words = f": {lines[-1][:WORDS_LIMIT]}" if lines else ""
    message = (
        f"the process that watches over replica {launch.index} of {launch.stage} ended at its start "
        f"with exit code {code}{words}"
    )
    return TerminationMessage(exit_code=code, reason="StartFailed", message=message, log_tail=lines)
