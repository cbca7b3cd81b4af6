"""An end for replicas whose supervisor was killed: kill what is left of them, then write down when they last lived."""

from costopt.local.processes import kill_replica
from costopt.local.replica_folder import Birth, End, ReplicaFolder
from costopt.local.supervisor import END_FILE


def bury_if_dead(folder: ReplicaFolder, birth: Birth) -> None:
    """Write ended.json if no supervisor lives to do it; does nothing to a replica that lives or has ended.

    The lock is held meanwhile, so that a supervisor still on its way to life finds the end and goes.
    """
    with folder.locked() as lock:
        if lock is None or folder.end() is not None:
            return
        supervised = folder.supervised()
        kill_replica(birth.uid, supervised.launcher_pid if supervised else None)
        if supervised is None:  # killed before it had started anything: nothing was held
            folder.write(END_FILE, End(started_at=birth.created_at, ended_at=birth.created_at, estimated=False))
            return
        last_known = max(supervised.started_at, folder.last_heartbeat() or supervised.started_at)
        folder.write(END_FILE, End(started_at=supervised.started_at, ended_at=last_known, estimated=True))
