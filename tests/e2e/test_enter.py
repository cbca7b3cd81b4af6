"""Whatever ends `e2e.enter`, it leaves no process and no control group behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builders.waiting import wait_for
from e2e.enter import control_group_roots, why_not

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _where_a_node_can_live() -> None:
    if reason := why_not():
        pytest.skip(reason)


def enter(*command: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "e2e.enter", *command], env={**os.environ, "PYTHONPATH": str(TESTS)}, cwd=TESTS
    )


def groups_of(pid: int) -> list[Path]:
    paths = (root / f"costopt-e2e-{pid}" for root in control_group_roots())
    return [path for path in paths if path.exists()]


def runs(mark: str) -> bool:
    """Whether a process with the mark in its command line is there."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_everything(number: signal.Signals, tmp_path: Path) -> None:
    begun, mark = tmp_path / "begun", f"mark-of-{os.getpid()}-{number}"
    process = enter("bash", "-c", f"touch {begun}; sleep 60; :", mark)
    wait_for(begun.exists)
    process.send_signal(number)
    code = process.wait(timeout=240)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: not runs(mark))
    wait_for(lambda: not groups_of(process.pid))


def test_the_commands_exit_code_is_ones_own() -> None:
    process = enter("bash", "-c", "exit 7")
    assert process.wait(timeout=240) == 7
    assert not groups_of(process.pid)
