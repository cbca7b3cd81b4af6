"""A real job on this machine whose ranks are started anew in place: one attempt, no failure, an exact bill."""

import sys
from pathlib import Path

import pytest

from builders.local import job
from costopt.accounting.goodput import split_by_cause
from costopt.accounting.intervals import held_of
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner

PROGRAM = """
import os, sys, time
time.sleep(0.5)
sys.exit(5 if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1" else 0)
"""


@pytest.mark.slow
def test_ranks_started_anew_in_place_cost_no_attempt_and_the_time_they_lost_is_in_the_bill(tmp_path: Path) -> None:
    tiny = job(train={"command": [sys.executable, "-c", PROGRAM]})
    run_folder = RunFolder(tmp_path / "run")
    run_folder.create()
    run_folder.claim(tiny)
    status = Runner(run_folder, tiny, None).run()
    stage = status.stages[0]
    assert (stage.state, stage.attempt, stage.failures, stage.disruptions) == ("Succeeded", 0, 0, 0)
    assert stage.in_place_restarts == 1
    for record in run_folder.ledger().records:
        causes = split_by_cause(record)
        assert causes.keys() == {"LostProgress", "Productive"}
        assert sum(causes.values()) == held_of(record).microseconds
        assert causes["LostProgress"] >= 500_000
