"""What is seen of replicas."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from costopt.local.observe import ReplicaReader
from costopt.local.replica_folder import LaunchRecord, ReplicaFolder, Supervised
from costopt.local.run_folder import RunFolder

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize("set_to", [timedelta(hours=-3), timedelta(0), timedelta(days=1)])
def test_how_long_a_replica_has_been_starting_is_no_matter_of_a_clock_that_is_set(
    tmp_path: Path, set_to: timedelta
) -> None:
    run_folder = RunFolder(tmp_path)
    run_folder.make_folders()
    folder = ReplicaFolder(run_folder.replica_path("tiny-train-a0-0"))
    folder.make()
    launch = LaunchRecord(uid="a", stage="train", attempt=0, index=0, argv=["x"], resources={}, created_at=NOON)
    folder.write("replica.json", launch)
    seconds = iter([100.0, 107.5])
    reader = ReplicaReader(run_folder, lambda: next(seconds))
    with folder.locked():  # as its supervisor would: it lives
        (waiting,) = reader.snapshots(NOON)
        assert waiting.replica.starting_for is None
        folder.write("supervisor.json", Supervised(pid=1, pid_started="1", started_at=NOON))
        (first,) = reader.snapshots(NOON)
        (second,) = reader.snapshots(NOON + set_to)
        assert first.replica.starting_for == timedelta(0)
        assert second.replica.starting_for == timedelta(seconds=7.5)
        (folder.path / "progress.json").write_text('{"step": 0, "totalSteps": 9}')
        (third,) = ReplicaReader(run_folder).snapshots(NOON + set_to)
        assert third.replica.starting_for is None
