"""What the bill says of a program of the user's own that reports: the same causes as of a recipe. Real processes under
real supervisors, with the program in the launcher's place, so without torch."""

import json
import sys
from decimal import Decimal
from pathlib import Path

from builders.local import job, price_book
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner
from costopt.schema.status import JobStatus

PROGRAM = """
import os, sys, time
from costopt_trainer import session
kept = session.checkpoints() / "step"
begin = int(kept.read_text()) if kept.exists() else 0
if begin:
    session.resumed(begin)
session.report(step=begin, total_steps=4, loss=2)
for step in range(begin + 1, 5):
    with session.data_wait():
        time.sleep(0.05)
    time.sleep(0.1)
    session.report(step=step, total_steps=4, loss=2 - step / 4)
    if step == 2:
        with session.checkpoint():
            time.sleep(0.05)
            kept.write_text(str(step))
        session.checkpoint_saved(step)
    if step == 3 and os.environ["COSTOPT_ATTEMPT"] == "0":
        sys.exit(7)
"""

LAST_DIGIT = Decimal("0.000000001")


def causes(status: JobStatus) -> dict[str, Decimal]:
    """Hours of cpu by cause."""
    assert status.bill is not None
    found: dict[str, Decimal] = {}
    for line in status.bill.lines:
        if line.resource == "cpu":
            found[line.cause] = found.get(line.cause, Decimal()) + Decimal(line.consumed_quantity)
    return found


def test_data_wait_checkpoint_lost_progress_and_recovery_of_a_command_are_in_its_bill(tmp_path: Path) -> None:
    run_folder = RunFolder(tmp_path / "run")
    run_folder.create()
    tiny = job(train={"numNodes": 1}, restarts={"backoffSeconds": 0}, priceBookName="sample")
    run_folder.claim(tiny)
    status = Runner(run_folder, tiny, price_book(), argv=(sys.executable, "-c", PROGRAM)).run()
    assert status.stages[0].state == "Succeeded"
    assert (status.stages[0].attempt, status.stages[0].failures) == (1, 1)
    told = status.progress
    assert told is not None
    assert (told.step, told.loss, told.resumed_from_step, told.last_checkpoint_step) == (4, "1", 2, 2)

    first, second = sorted(run_folder.ledger().records, key=lambda record: record.attempt)
    assert first.metered is not None
    assert second.metered is not None
    assert first.metered.productive >= 200, "two steps, which the checkpoint holds"
    assert first.metered.since_checkpoint >= 100, "and the third"
    hours = causes(status)
    # In milliseconds. A bill shows hours to nine digits: the two lines of a cause, one for each attempt, may lack one.
    spent = {cause: (hours[cause] + LAST_DIGIT) * 3_600_000 for cause in hours}
    assert spent["Startup"] >= first.metered.startup - 1
    assert spent["Recovery"] >= second.metered.startup - 1
    assert spent["LostProgress"] >= 100
    assert spent["DataWait"] >= 5 * 50
    assert spent["Checkpoint"] >= 50
    assert spent["Productive"] >= 400
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)), "a step that is taken again has one line"
    assert {2, 4} <= set(steps)
