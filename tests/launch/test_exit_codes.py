"""How a replica ends when its one rank ends: exit code, reason, and a sentence."""

import signal
from pathlib import Path

import pytest

from builders.launch import python, replica, wait_until_dead

pytestmark = pytest.mark.slow

TABLE = [
    ("print('done')", 0, None, None, ""),
    ("raise ValueError('no such thing')", 1, "ProcessFailed", 1, "ValueError: no such thing"),
    ("import sys; sys.exit(3)", 1, "ProcessFailed", 3, "Rank 0 ended with exit code 3."),
    ("import sys; sys.exit(78)", 78, "ProcessFailed", 78, "Rank 0 ended with exit code 78."),
    ("import sys; sys.exit(143)", 143, "Preempted", None, "Stopped on SIGTERM; rank 0 ended with exit code 143."),
    ("import os; os.kill(os.getpid(), 9)", 1, "ProcessKilled", -9, "Rank 0 was killed by SIGKILL."),
    ("import os; os.kill(os.getpid(), 15)", 1, "ProcessKilled", -15, "Rank 0 was killed by SIGTERM."),
    ("import os; os.abort()", 1, "ProcessFailed", -signal.SIGABRT, "Rank 0 died of SIGABRT."),
    ("raise MemoryError()", 1, "OutOfMemory", 1, "MemoryError"),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_a_replica_ends_as_its_rank_does(tmp_path: Path, row: tuple[str, int, str | None, int | None, str]) -> None:
    code, exit_code, reason, rank_exit_code, sentence = row
    with replica(tmp_path, python(code)) as launcher:
        assert launcher.wait() == exit_code, launcher.notes
        message = launcher.termination
    assert (message.exit_code, message.reason, message.rank_exit_code) == (exit_code, reason, rank_exit_code)
    assert message.message.startswith(sentence)
    assert message.rank == (None if exit_code in (0, 143) else 0)
    assert not message.echo


def test_the_message_carries_the_last_lines_and_the_last_progress(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text('{"step": 7, "totalSteps": 9, "loss": "1.5"}')
    program = """
        import sys
        print("one")
        print('{"step":7}')
        print("two", file=sys.stderr)
        raise KeyError("three")
    """
    with replica(tmp_path, python(program)) as launcher:
        assert launcher.wait() == 1
        message = launcher.termination
    assert "one" in message.log_tail
    assert '{"step":7}' not in message.log_tail
    # Output and errors come through two pipes: each keeps its order, between them there is none.
    assert [line for line in message.log_tail if line != "one"][-1] == "KeyError: 'three'"
    assert message.progress is not None
    assert message.progress.step == 7
    assert message.time is not None
    assert "costopt: ProcessFailed: KeyError: 'three' (rank 0 of replica 0)" in launcher.notes


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["no-such-program-here"], "No such file or directory"),
        (["./settings.json"], "Permission denied"),
        (["no\0program"], "execve: embedded null character in path"),
    ],
)
def test_a_program_that_cannot_be_started_is_not_tried_again(tmp_path: Path, command: list[str], why: str) -> None:
    program = [part.replace("./", f"{tmp_path}/") for part in command]
    with replica(tmp_path, program) as launcher:
        assert launcher.wait() == 78
        message = launcher.termination
    assert message.reason == "InvalidSettings"
    assert message.message.startswith(f"The program {program[0]!r} of command cannot be started ({why}")


def test_a_script_under_torchs_record_decorator_says_why_it_failed(tmp_path: Path) -> None:
    program = """
        from torch.distributed.elastic.multiprocessing.errors import record
        @record
        def main():
            raise LookupError("not: found")
        main()
    """
    with replica(tmp_path, python(program)) as launcher:
        assert launcher.wait() == 1
        assert launcher.termination.message == "LookupError: not: found"


def test_processes_a_rank_leaves_behind_end_with_the_replica(tmp_path: Path) -> None:
    program = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("child", child.pid)
    """
    with replica(tmp_path, python(program)) as launcher:
        assert launcher.wait() == 0
        wait_until_dead([int(launcher.output.split()[1])])


def test_a_recipe_whose_data_is_missing_is_not_tried_again(tmp_path: Path) -> None:
    recipe = {
        "model": {"type": "DecoderLM"},
        "data": {"type": "Text", "text": {"path": str(tmp_path / "nowhere")}},
        "batch": {"globalBatchSize": 2, "microBatchSize": 1},
        "totalSteps": 1,
    }
    settings = {"jobName": "demo", "stage": "train", "numNodes": 1, "processesPerNode": 2, "recipe": recipe}
    with replica(tmp_path, None, settings=settings) as launcher:
        assert launcher.wait() == 78
        message = launcher.termination
    assert (message.reason, message.rank_exit_code, message.echo) == ("InvalidData", 78, False)
    assert "nowhere" in message.message
    assert "Traceback" not in launcher.output
