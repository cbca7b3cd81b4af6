"""Whatever is killed with SIGKILL: no process is left over, nothing is lost, and each second is counted once."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builders.local import assert_nothing_is_left, job, processes_below, runner_in, start_runner, wait_until
from costopt.local.replica_folder import ReplicaFolder
from costopt.local.run_folder import RunFolder
from costopt.schema.usage import UsageRecord

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def supervised(folder: Path, attempt: int = 0) -> list[ReplicaFolder]:
    """Replicas of an attempt whose launchers have said something, so that they have begun."""
    begun = [path for path in folder.glob(f"logs/*-a{attempt}-*.log") if "working" in path.read_text()]
    return [ReplicaFolder(folder / "replicas" / path.stem) for path in sorted(begun)]


def assert_no_second_is_counted_twice(records: tuple[UsageRecord, ...]) -> None:
    assert len({record.uid for record in records}) == len(records)
    for one, other in itertools.combinations(records, 2):
        if one.index == other.index:
            assert one.held_until <= other.held_from or other.held_until <= one.held_from


@linux
def test_a_killed_runner_leaves_no_process_and_the_next_one_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runner = start_runner(folder, "wait once")
    wait_until(lambda: len(supervised(folder)) == 2)
    runner.kill()
    runner.wait()
    assert_nothing_is_left(folder)

    status = runner_in(folder, job(), "wait once").run()
    assert status.stages[0].state == "Succeeded"
    assert (status.stages[0].attempt, status.stages[0].disruptions) == (1, 1)
    records = RunFolder(folder).ledger().records
    assert {(r.attempt, r.index): r.outcome for r in records} == {
        (0, 0): "Disrupted",
        (0, 1): "Disrupted",
        (1, 0): "Succeeded",
        (1, 1): "Succeeded",
    }
    assert_no_second_is_counted_twice(records)


@linux
def test_a_runner_started_while_the_old_gang_is_still_ending_waits_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runner = start_runner(folder, "wait once")
    wait_until(lambda: len(supervised(folder)) == 2)
    runner.kill()
    runner.wait()
    status = runner_in(folder, job(), "wait once").run()
    assert status.stages[0].state == "Succeeded"
    assert_no_second_is_counted_twice(RunFolder(folder).ledger().records)
    assert_nothing_is_left(folder)


@linux
def test_a_killed_supervisor_is_buried_and_its_gang_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runner = start_runner(folder, "wait once")
    wait_until(lambda: len(supervised(folder)) == 2)
    victim = supervised(folder)[1].supervised()
    assert victim is not None
    os.kill(victim.pid, signal.SIGKILL)
    assert runner.wait(240) == 0

    run_folder = RunFolder(folder)
    records = {(record.attempt, record.index): record for record in run_folder.ledger().records}
    assert records[0, 1].end_estimated
    assert records[0, 1].outcome == "Disrupted"
    assert not records[0, 0].end_estimated
    assert run_folder.status().stages[0].disruptions == 1
    assert run_folder.status().bill.estimated_records == 1
    assert_no_second_is_counted_twice(run_folder.ledger().records)
    assert_nothing_is_left(folder)


@linux
def test_everything_killed_at_once_is_found_and_ended_by_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runner = start_runner(folder, "hang")
    wait_until(lambda: len(processes_below(folder)) == 6)
    supervisors = [replica.supervised() for replica in supervised(folder)]
    for process in (runner.pid, *(found.pid for found in supervisors if found)):
        os.kill(process, signal.SIGKILL)
    runner.wait()
    # Launchers that heed nothing, and their children, are left. The kernel takes a moment for those it has killed.
    wait_until(lambda: len(processes_below(folder)) == 4)

    status = runner_in(folder, job(), "finish").run()
    assert_nothing_is_left(folder)
    assert (status.stages[0].state, status.stages[0].disruptions) == ("Succeeded", 1)
    records = RunFolder(folder).ledger().records
    assert sorted(record.end_estimated for record in records) == [False, False, True, True]
    assert_no_second_is_counted_twice(records)


@linux
@pytest.mark.parametrize("write", range(1, 11))
def test_a_runner_killed_just_before_any_of_its_writes_is_made_good(tmp_path: Path, write: int) -> None:
    """All that a runner leaves behind are files and processes, so these are all the states a crash can leave."""
    folder = tmp_path / "run"
    runner = start_runner(folder, "finish", kill_before_write=write)
    ended = runner.wait(240)
    assert ended == -signal.SIGKILL or (ended == 0 and write > 8), "how often the last ones come depends on the pace"
    status = runner_in(folder, job(), "finish").run()
    assert status.stages[0].state == "Succeeded"
    assert status.stages[0].failures == 0
    assert_nothing_is_left(folder)
    records = RunFolder(folder).ledger().records
    assert_no_second_is_counted_twice(records)
    born = {launch.uid for path in RunFolder(folder).replica_paths() if (launch := ReplicaFolder(path).launch_record())}
    assert {record.uid for record in records} == born


@pytest.mark.slow
@linux
def test_killing_the_runner_again_and_again_counts_each_second_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for attempt in range(3):
        runner = start_runner(folder, "wait")
        wait_until(lambda attempt=attempt: len(supervised(folder, attempt)) == 2)
        runner.kill()
        runner.wait()
    runner = start_runner(folder, "wait")
    wait_until(lambda: len(supervised(folder, 3)) == 2)
    runner.send_signal(signal.SIGINT)
    assert runner.wait(240) == 0
    records = RunFolder(folder).ledger().records
    assert len(records) == 8
    assert_no_second_is_counted_twice(records)
    assert_nothing_is_left(folder)


def test_a_replica_recorded_twice_counts_once(tmp_path: Path) -> None:
    """A runner that was killed after writing the ledger and before anything else repeats the writing."""
    folder = tmp_path / "run"
    first = runner_in(folder, job(), "finish").run()
    ledger = (folder / "ledger.jsonl").read_text().splitlines()
    (folder / "ledger.jsonl").unlink()
    runner_in(folder, job(), "finish").turn()
    assert sorted((folder / "ledger.jsonl").read_text().splitlines()) == sorted(ledger)
    again = runner_in(folder, job(), "finish").run()
    assert again.bill == first.bill


def test_a_second_supervisor_of_the_same_replica_does_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runner_in(folder, job(train={"numNodes": 1}), "finish").run()
    replica = folder / "replicas/tiny-train-a0-0"
    before = {path.name: path.read_bytes() for path in replica.iterdir()}
    command = [sys.executable, "-m", "costopt.local.supervisor", str(replica)]
    again = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=240, check=True)
    assert again.stdout == again.stderr == b""
    assert {path.name: path.read_bytes() for path in replica.iterdir()} == before
