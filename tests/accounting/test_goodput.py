"""What held time was spent on."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.accounting import MIDNIGHT, meters, record, usage_records
from costopt.accounting.goodput import split_by_cause
from costopt.accounting.intervals import Held, held_between, held_of
from costopt.schema.replica import MeteredMilliseconds
from costopt.schema.usage import UsageRecord

METER = MeteredMilliseconds(startup=1000, productive=5000, since_checkpoint=700, data_wait=20, checkpoint=300)

CASES: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    (
        "steps after the last checkpoint of a success are productive",
        {"metered": METER},
        {"Startup": 1000, "Productive": 5700, "DataWait": 20, "Checkpoint": 300, "Other": 2980},
    ),
    (
        "steps after the last checkpoint of a running replica are productive until it is lost",
        {"metered": METER, "outcome": "Running"},
        {"Startup": 1000, "Productive": 5700, "DataWait": 20, "Checkpoint": 300, "Other": 2980},
    ),
    (
        "what was spent on choosing samples is told apart from the start, in every attempt",
        {"metered": METER.model_copy(update={"selecting": 500}), "attempt": 1},
        {
            "Recovery": 1000,
            "Selecting": 500,
            "Productive": 5700,
            "DataWait": 20,
            "Checkpoint": 300,
            "Other": 2480,
        },
    ),
    (
        "steps that no checkpoint holds are lost with a failure",
        {"metered": METER, "outcome": "Failed"},
        {"Startup": 1000, "Productive": 5000, "LostProgress": 700, "DataWait": 20, "Checkpoint": 300, "Other": 2980},
    ),
    (
        "steps that no checkpoint holds are lost with a disruption",
        {"metered": MeteredMilliseconds(since_checkpoint=4000), "outcome": "Disrupted"},
        {"LostProgress": 4000, "Other": 6000},
    ),
    (
        "a variant of which a step trains tells its time of that; the rest is its work",
        {"metered": METER, "stage": "int8"},
        {"Startup": 1000, "Productive": 5700 + 2980, "DataWait": 20, "Checkpoint": 300},
    ),
    (
        "what no checkpoint of such a variant holds is lost with it",
        {"metered": METER, "stage": "int8", "attempt": 1, "outcome": "Disrupted"},
        {"Recovery": 1000, "Productive": 5000, "LostProgress": 700 + 2980, "DataWait": 20, "Checkpoint": 300},
    ),
    (
        "starting again after an attempt is recovery",
        {"metered": METER, "attempt": 2},
        {"Recovery": 1000, "Productive": 5700, "DataWait": 20, "Checkpoint": 300, "Other": 2980},
    ),
    (
        "a meter that claims more than was held is cut off",
        {"metered": MeteredMilliseconds(startup=4000, productive=9000, checkpoint=50), "outcome": "Failed"},
        {"Startup": 4000, "Productive": 6000},
    ),
    (
        "ranks started anew in place tell what was lost before, and their start-up is recovery",
        {"metered": METER.model_copy(update={"recovery": 600, "lost": 80})},
        {
            "Startup": 1000,
            "Recovery": 600,
            "Productive": 5700,
            "DataWait": 20,
            "Checkpoint": 300,
            "LostProgress": 80,
            "Other": 2300,
        },
    ),
    (
        "a second attempt's start-up and that of ranks started anew in place are both recovery",
        {"metered": MeteredMilliseconds(startup=1000, recovery=600), "attempt": 1},
        {"Recovery": 1600, "Other": 8400},
    ),
    (
        "a program without a meter that was started anew in place has lost what was before, and no more",
        {"metered": MeteredMilliseconds(lost=4000), "has_meter": False},
        {"LostProgress": 4000, "Productive": 6000},
    ),
    (
        "a program without a meter that was started anew in place and failed has lost all",
        {"metered": MeteredMilliseconds(lost=4000), "has_meter": False, "outcome": "Failed"},
        {"LostProgress": 10000},
    ),
    ("a running variant without a meter is productive", {"stage": "int8", "outcome": "Running"}, {"Productive": 10000}),
    ("a finished variant without a meter was productive", {"stage": "int8"}, {"Productive": 10000}),
    ("a failed variant without a meter is lost", {"stage": "int8", "outcome": "Failed"}, {"LostProgress": 10000}),
    ("a suspended variant without a meter is lost", {"stage": "int8", "outcome": "Suspended"}, {"LostProgress": 10000}),
    ("training that never reported never got past its start", {"outcome": "Failed"}, {"Startup": 10000}),
    ("training that has not reported yet is starting", {"outcome": "Running"}, {"Startup": 10000}),
    ("a second attempt that never reported was recovery", {"outcome": "Failed", "attempt": 1}, {"Recovery": 10000}),
    ("a program without a meter that succeeded was productive", {"outcome": "Succeeded"}, {"Productive": 10000}),
    (
        "a program of the user's own that gives a meter is counted by it",
        {"metered": METER, "outcome": "Failed", "has_meter": False, "attempt": 1},
        {"Recovery": 1000, "Productive": 5000, "LostProgress": 700, "DataWait": 20, "Checkpoint": 300, "Other": 2980},
    ),
    (
        "one that gives none and was suspended may have saved its work",
        {"outcome": "Suspended", "has_meter": False},
        {"Productive": 10000},
    ),
    ("time before it began counts for nothing", {"seconds": -1, "metered": METER}, {}),
]


@pytest.mark.parametrize(("changed", "milliseconds"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_held_time_is_split_by_cause(changed: dict[str, Any], milliseconds: dict[str, int]) -> None:
    parts = split_by_cause(record(**{"seconds": 10, **changed}))
    assert parts == {cause: amount * 1000 for cause, amount in milliseconds.items()}


@given(usage_records("r"), st.sampled_from(["Running", "Succeeded", "Failed", "Disrupted", "Suspended"]), meters)
def test_splitting_loses_no_microsecond(base: UsageRecord, outcome: str, metered: MeteredMilliseconds | None) -> None:
    changed = base.model_copy(update={"outcome": outcome, "metered": metered})
    parts = split_by_cause(changed)
    assert sum(parts.values()) == held_of(changed).microseconds
    assert all(part > 0 and isinstance(part, int) for part in parts.values())


def test_an_interval_is_counted_in_whole_microseconds() -> None:
    assert held_between(MIDNIGHT, MIDNIGHT + timedelta(days=400, microseconds=1)) == Held(34_560_000_000_001, False)


def test_an_end_before_the_beginning_counts_as_nothing_and_is_flagged() -> None:
    assert held_between(MIDNIGHT, MIDNIGHT - timedelta(microseconds=1)) == Held(0, True)
