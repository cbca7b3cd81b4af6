"""One runner per run folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builders.local import start_runner, wait_until
from costopt.local.lock import Holder, holder_of, only_runner
from costopt.local.processes import is_alive, start_time
from costopt.refused import Refused


def test_a_second_runner_is_told_the_process_id_of_the_first(tmp_path: Path) -> None:
    runner = start_runner(tmp_path / "run", "wait", num_nodes=1)
    wait_until(lambda: list(tmp_path.glob("run/replicas/*/supervisor.json")))
    with (
        pytest.raises(Refused, match=f"is being run by process {runner.pid}; wait for its end"),
        only_runner(tmp_path / "run/lock"),
    ):
        pass
    runner.send_signal(signal.SIGINT)
    assert runner.wait(240) == 0
    with only_runner(tmp_path / "run/lock"):
        pass


def test_the_lock_is_free_again_when_its_holder_was_killed(tmp_path: Path) -> None:
    runner = start_runner(tmp_path / "run", "finish", num_nodes=1)
    wait_until(lambda: holder_of(tmp_path / "run/lock"))
    runner.kill()
    runner.wait()
    holder = holder_of(tmp_path / "run/lock")
    assert holder is not None
    assert holder.pid == runner.pid
    assert not holder.alive
    with only_runner(tmp_path / "run/lock"):
        assert holder_of(tmp_path / "run/lock") == Holder(os.getpid(), start_time(os.getpid()))


def test_a_child_that_a_killed_runner_had_just_forked_does_not_keep_the_folder_from_the_next(
    tmp_path: Path,
) -> None:
    program = """
import os, sys, time
from pathlib import Path
from costopt.local.lock import only_runner
with only_runner(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(0.5)  # a child between its fork and its exec
        os._exit(0)
    os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "lock")], check=False)
    assert killed.returncode == -signal.SIGKILL
    with only_runner(tmp_path / "lock"):
        assert holder_of(tmp_path / "lock") == Holder(os.getpid(), start_time(os.getpid()))


def test_a_recycled_process_id_is_not_taken_for_the_process_that_had_it() -> None:
    mine = start_time(os.getpid())
    assert is_alive(os.getpid(), mine)
    assert not is_alive(os.getpid(), "1" if mine != "1" else "2")
    assert not is_alive(os.getpid(), None)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "started": null}'])
def test_a_lock_file_that_says_nothing_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    assert holder_of(tmp_path / "lock") is None
