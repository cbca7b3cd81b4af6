"""A run of a model that does not end ends its process, which says so."""

import json
import subprocess
import sys
import time
from pathlib import Path

from costopt.schema.replica import EXIT_NOT_RETRYABLE
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.launch.rank_error import ERROR_FILE_VARIABLE, read_error

PROGRAM = """
import sys, threading
sys.path[:] = {path}
from costopt_trainer.compress.overdue import Overdue
with Overdue("small", limit_seconds=1) as calls:
    calls.begin()
    threading.Event().wait()
"""


def test_a_call_that_never_ends_is_told_and_not_tried_again(tmp_path: Path) -> None:
    error_file = tmp_path / "error.json"
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(path=json.dumps(sys.path))],
        env={ERROR_FILE_VARIABLE: str(error_file)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == EXIT_NOT_RETRYABLE, answer.stderr
    error = read_error(error_file)
    assert error is not None
    assert error.reason == "InvalidSettings"
    assert error.message == (
        "a run of small on one micro-batch has not ended after 1 s: give it more CPU, or lower batch.microBatchSize"
    )
    assert error.message in answer.stderr


def test_calls_that_end_in_time_are_left_alone() -> None:
    with Overdue("small", limit_seconds=60) as calls:
        for _ in range(3):
            calls.begin()
            with calls.paused():
                time.sleep(0)
