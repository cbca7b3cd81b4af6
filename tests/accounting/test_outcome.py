"""What the record of an ended replica says, given what was counted for its attempt."""

import pytest

from builders.accounting import record
from costopt.accounting.outcome import AttemptEnd, outcome_in, outcome_of

THIS, ANOTHER = ("train", 1), ("train", 0)

ENDS = [
    ("a success", AttemptEnd("Success"), "Succeeded"),
    ("a failure", AttemptEnd("Failure", "ProcessFailed"), "Failed"),
    ("one that did not start", AttemptEnd("Failure", "NotStarted"), "Failed"),
    ("a stall", AttemptEnd("Failure", "Stalled"), "Stalled"),
    ("a disruption", AttemptEnd("Disruption", "Preempted"), "Disrupted"),
    ("a stalled gang on a lost node", AttemptEnd("Disruption", "Stalled"), "Disrupted"),
    ("a suspension", AttemptEnd("Suspension"), "Suspended"),
    ("the end of its job", AttemptEnd("Stop"), "Stopped"),
]


@pytest.mark.parametrize(("end", "outcome"), [case[1:] for case in ENDS], ids=[case[0] for case in ENDS])
def test_a_replica_that_did_not_end_well_says_what_its_attempt_was_counted_as(end: AttemptEnd, outcome: str) -> None:
    assert outcome_of(end, ended_well=False) == outcome


@pytest.mark.parametrize("end", [None, *(case[1] for case in ENDS)])
def test_a_replica_that_ended_well_did_whatever_became_of_its_gang(end: AttemptEnd | None) -> None:
    assert outcome_of(end, ended_well=True) == "Succeeded"


def test_an_attempt_that_failed_although_all_ended_well_has_failed() -> None:
    end = AttemptEnd("Failure", "ProcessFailed", all_ended_well=True)
    assert outcome_of(end, ended_well=True) == "Failed"


def test_what_is_counted_now_goes_before_what_was_recorded_and_that_before_what_a_stage_still_tells() -> None:
    known: dict[tuple[str, int], AttemptEnd | None] = {THIS: AttemptEnd("Failure", "Stalled")}
    ends = {THIS: AttemptEnd("Suspension")}
    made = [record(stage="train", attempt=1, outcome="Disrupted")]
    assert outcome_in(THIS, ended_well=False, ends=ends, records=made, known=known) == "Suspended"
    assert outcome_in(THIS, ended_well=False, ends={}, records=made, known=known) == "Disrupted"
    assert outcome_in(THIS, ended_well=False, ends={}, records=[], known=known) == "Stalled"


def test_a_record_of_another_attempt_or_of_one_that_ended_well_says_nothing() -> None:
    made = [record(attempt=0, outcome="Disrupted"), record(attempt=1, outcome="Succeeded")]
    known = {THIS: AttemptEnd("Failure", "ProcessFailed")}
    assert outcome_in(THIS, ended_well=False, ends={}, records=made, known=known) == "Failed"


def test_the_latest_record_of_an_attempt_tells_for_a_queue_may_have_taken_others_back_before() -> None:
    made = [record(attempt=1, outcome="Suspended"), record(attempt=1, outcome="Failed")]
    known = {THIS: AttemptEnd("Failure", "ProcessFailed")}
    assert outcome_in(THIS, ended_well=False, ends={}, records=made, known=known) == "Failed"


def test_the_outcome_of_an_attempt_that_goes_on_is_not_known_unless_the_replica_ended_well() -> None:
    assert outcome_in(THIS, ended_well=False, ends={}, records=[], known={THIS: None}) is None
    assert outcome_in(THIS, ended_well=True, ends={}, records=[], known={THIS: None}) == "Succeeded"


def test_a_replica_that_nobody_waited_for_was_stopped() -> None:
    assert outcome_in(ANOTHER, ended_well=False, ends={}, records=[], known={}) == "Stopped"
