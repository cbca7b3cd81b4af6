"""Progress read back from the lines of a log, among whatever else was written there."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.schema.replica import MeteredMilliseconds, Progress, progress_in_log

METER = MeteredMilliseconds(startup=900, productive=5000, since_checkpoint=70, data_wait=3, checkpoint=40)
PROGRESS = Progress(step=7, total_steps=100, loss="1.25", metered=METER, results={"accuracyPermille": "913"})
LINE = json.dumps(PROGRESS.to_plain(), separators=(",", ":"))

LOGS = [
    ("nothing", []),
    ("no progress", ["loading", "", "step 7 of 100"]),
    ("other JSON", ['{"level": "info"}', '{"step": 7}', "[1, 2]", "{}", '{"step": 7, "totalSteps": 9, "lr": 0.1}']),
    ("another rank's", [f"[rank 1] {LINE}"]),
    ("a line cut off at its end", [LINE[:-1]]),
    ("a line cut off at its beginning", [LINE[1:]]),
    ("a float, which a reader might round", ['{"step": 7, "totalSteps": 100, "loss": 1.25}']),
    ("steps below zero", ['{"step": -7, "totalSteps": 100}']),
]


@pytest.mark.parametrize("lines", [row[1] for row in LOGS], ids=[row[0] for row in LOGS])
def test_no_progress_is_found_in(lines: list[str]) -> None:
    assert progress_in_log(lines) is None


def test_progress_comes_back_whole_with_its_meter() -> None:
    assert progress_in_log(["before", LINE, "after"]) == PROGRESS


def test_the_newest_progress_counts_and_one_that_is_damaged_does_not() -> None:
    older = LINE.replace('"step":7', '"step":6')
    assert progress_in_log([older, LINE, LINE[:-5]]) == PROGRESS


@pytest.mark.parametrize("time", ["2026-11-20T09:00:00.123456789Z ", "2026-11-20T09:00:00+01:00 "])
def test_the_time_before_a_line_is_passed_over(time: str) -> None:
    assert progress_in_log([f"{time}noise", f"{time}{LINE}\n"]) == PROGRESS


def test_a_line_printed_by_a_users_own_program_is_progress() -> None:
    assert progress_in_log([json.dumps({"step": 3, "totalSteps": 9})]) == Progress(step=3, total_steps=9)


@given(st.lists(st.text(max_size=80)), st.lists(st.text(max_size=80)))
def test_whatever_surrounds_it_progress_is_found(before: list[str], after: list[str]) -> None:
    assert progress_in_log([*before, LINE, *after]) == PROGRESS
