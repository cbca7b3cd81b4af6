"""The process above each launcher."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builders.local import argv_of, wait_until
from costopt.local.observe import sight
from costopt.local.processes import family, processes_of
from costopt.local.replica_folder import End, LaunchRecord, ReplicaFolder
from costopt.local.run_folder import RunFolder
from costopt.local.supervisor import GRACE_SECONDS
from costopt.plan.failures import failure_of


def uid_of(folder: Path) -> str:
    """Unique on this machine, for other tests run at the same time."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def supervisor(
    folder: Path, argv: Sequence[str], program: Sequence[str] = ("-m", "costopt.local.supervisor")
) -> subprocess.Popen[bytes]:
    launch = LaunchRecord(
        uid=uid_of(folder),
        stage="train",
        attempt=0,
        index=0,
        argv=list(argv),
        resources={"cpu": "1"},
        created_at=datetime.now(UTC),
    )
    ReplicaFolder(folder).write("replica.json", launch)
    command = [sys.executable, *program, str(folder)]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)


def working(folder: Path) -> None:
    wait_until(lambda: "working" in (folder / "log").read_text())


def end_of(folder: Path) -> End:
    end = ReplicaFolder(folder).end()
    assert end is not None, (folder / "log").read_text()
    return end


@pytest.mark.parametrize("code", [0, 1, 78, 143])
def test_the_launchers_exit_code_and_times_are_written_down(tmp_path: Path, code: int) -> None:
    before = datetime.now(UTC)
    supervisor(tmp_path, [sys.executable, "-c", f"raise SystemExit({code})"]).wait(240)
    end = end_of(tmp_path)
    assert (end.exit_code, end.estimated) == (code, False)
    assert before <= end.started_at <= end.ended_at <= datetime.now(UTC)


def test_a_launcher_killed_by_a_signal_ends_with_its_negative_number(tmp_path: Path) -> None:
    process = supervisor(tmp_path, argv_of("wait"))
    working(tmp_path)
    launcher = json.loads((tmp_path / "supervisor.json").read_text())["launcherPid"]
    os.kill(launcher, signal.SIGKILL)
    process.wait(240)
    assert end_of(tmp_path).exit_code == -signal.SIGKILL


def test_a_launcher_that_cannot_be_started_ends_as_a_shell_would_say(tmp_path: Path) -> None:
    supervisor(tmp_path, ["/no/such/program"]).wait(240)
    assert end_of(tmp_path).exit_code == 127
    assert "cannot start /no/such/program" in (tmp_path / "log").read_text()


def test_sigterm_is_passed_on_and_the_launcher_has_time_to_save(tmp_path: Path) -> None:
    process = supervisor(tmp_path, argv_of("wait"))
    working(tmp_path)
    process.terminate()
    process.wait(240)
    assert end_of(tmp_path).exit_code == 143


def test_the_end_of_its_lifeline_stops_the_launcher(tmp_path: Path) -> None:
    process = supervisor(tmp_path, argv_of("wait"))
    working(tmp_path)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(240)
    assert end_of(tmp_path).exit_code == 143


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_broken_gangs_launcher_is_killed_after_five_seconds_with_all_below_it(tmp_path: Path) -> None:
    process = supervisor(tmp_path, argv_of("hang"))
    working(tmp_path)
    wait_until(lambda: len(processes_of(uid_of(tmp_path), None)) == 2)
    began = time.monotonic()
    process.send_signal(signal.SIGUSR1)
    process.wait(240)
    assert 4.5 < time.monotonic() - began < GRACE_SECONDS, "a gang that is asked to save is given longer"
    assert end_of(tmp_path).exit_code == -signal.SIGKILL
    assert processes_of(uid_of(tmp_path), None) == []


def test_a_more_urgent_stop_shortens_the_wait(tmp_path: Path) -> None:
    process = supervisor(tmp_path, argv_of("hang"))
    working(tmp_path)
    began = time.monotonic()
    process.terminate()
    process.send_signal(signal.SIGUSR2)
    process.wait(240)
    assert time.monotonic() - began < GRACE_SECONDS
    assert processes_of(uid_of(tmp_path), None) == []


def test_it_beats_while_the_launcher_lives(tmp_path: Path) -> None:
    process = supervisor(tmp_path, argv_of("wait"))
    working(tmp_path)
    replica = ReplicaFolder(tmp_path)
    first = replica.last_heartbeat()
    assert first is not None
    wait_until(lambda: (replica.last_heartbeat() or first) > first)
    process.send_signal(signal.SIGUSR2)
    process.wait(240)


def test_it_holds_the_folders_lock_as_long_as_it_lives(tmp_path: Path) -> None:
    process = supervisor(tmp_path, argv_of("wait"))
    working(tmp_path)
    with ReplicaFolder(tmp_path).locked() as lock:
        assert lock is None
    process.send_signal(signal.SIGUSR2)
    process.wait(240)
    with ReplicaFolder(tmp_path).locked() as lock:
        assert lock is not None


def test_the_launchers_own_lifeline_ends_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    code = (
        "import os; print('working', flush=True); os.read(int(os.environ['COSTOPT_LIFELINE_FD']), 1); print('bereft')"
    )
    process = supervisor(tmp_path, [sys.executable, "-c", code])
    working(tmp_path)
    process.kill()
    wait_until(lambda: "bereft" in (tmp_path / "log").read_text())


def test_without_proc_a_process_and_all_below_it_are_found_with_ps(tmp_path: Path) -> None:
    process = subprocess.Popen([*argv_of("hang")], start_new_session=True, stdout=subprocess.DEVNULL)
    wait_until(lambda: len(family(process.pid)) == 2)
    for pid in family(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: family(process.pid) == [])


def test_it_imports_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys, costopt.local.supervisor; print(sorted({'torch', 'pydantic', 'yaml', 'rich'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


KERNEL_KILLS = """
import sys
from pathlib import Path
from costopt.local import supervisor
counts = iter({counts})
supervisor.count_oom_kills = lambda: next(counts)
supervisor.supervise(Path(sys.argv[1]), None)
"""


@pytest.mark.parametrize(
    ("counts", "launcher", "out_of_memory"),
    [
        ([4, 5], "import os; os.kill(os.getpid(), 9)", True),
        ([None, 1], "import os; os.kill(os.getpid(), 9)", True),
        ([4, 4], "import os; os.kill(os.getpid(), 9)", False),
        ([None, None], "import os; os.kill(os.getpid(), 9)", False),
        ([4, 5], "import os; os.kill(os.getpid(), 11)", False),
        ([4, 5], "raise SystemExit(1)", False),
    ],
)
def test_a_launcher_that_the_kernel_killed_for_its_memory_is_told_as_such(
    tmp_path: Path, counts: list[int | None], launcher: str, out_of_memory: bool
) -> None:
    supervisor(tmp_path, [sys.executable, "-c", launcher], program=("-c", KERNEL_KILLS.format(counts=counts))).wait(240)
    assert end_of(tmp_path).out_of_memory is out_of_memory
    folder = ReplicaFolder(tmp_path)
    launch = folder.launch_record()
    assert launch is not None
    seen = sight(RunFolder(tmp_path), folder, launch, datetime.now(UTC)).replica
    assert (failure_of(seen).reason == "OutOfMemory") is out_of_memory
