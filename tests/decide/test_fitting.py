"""However much there is to tell, a status fits into its object, and what decides something is always in it."""

import json

import pytest

from builders.statuses import failure, largest_status, line
from costopt.schema.status import Bill, JobStatus
from costopt_operator.decide.fitting import fitted
from costopt_operator.decide.objects import stored_bytes
from costopt_operator.decide.observe import LARGEST_STATUS


@pytest.mark.parametrize("room", [LARGEST_STATUS, 1_000_000, 700_000, 524_288])
def test_the_largest_status_fits_and_decides_the_same(room: int) -> None:
    before = largest_status()
    assert stored_bytes(before.to_plain()) > 3 * LARGEST_STATUS
    after = fitted(before, room)
    assert stored_bytes(after.to_plain()) <= room
    assert JobStatus.model_validate_json(json.dumps(after.to_plain())) == after
    assert [(item.type, item.status, item.reason) for item in after.conditions] == [
        (item.type, item.status, item.reason) for item in before.conditions
    ]
    assert [(item.name, item.state, item.failures) for item in after.stages] == [
        (item.name, item.state, item.failures) for item in before.stages
    ]
    assert after.usage is not None
    assert before.usage is not None
    assert after.usage.folded == before.usage.folded
    assert [(one.uid, one.resources) for one in after.usage.records] == [
        (one.uid, one.resources) for one in before.usage.records
    ]
    assert after.bill is not None
    assert after.bill.by_cause[0].list_cost == after.bill.list_cost == "6000"
    assert fitted(after, room) == after


def test_a_status_that_fits_is_left_as_it_is() -> None:
    usual = largest_status().model_copy(update={"usage": None, "bill": None, "failure": None, "stages": []})
    assert fitted(usual, LARGEST_STATUS) is usual


def test_what_is_missed_least_goes_first_and_no_more_than_has_to() -> None:
    before = JobStatus(failure=failure("train"), bill=Bill(lines=[line("train", 1, cause) for cause in range(7)]))
    size = stored_bytes(before.to_plain())
    after = fitted(before, size - 1)
    assert after.failure is not None
    assert before.failure is not None
    assert after.failure.log_tail == before.failure.log_tail[-5:]
    assert after.bill == before.bill


def test_lines_that_are_put_together_have_the_same_hours_and_the_same_cost() -> None:
    lines = [line("train", 1, cause) for cause in range(7)] + [line("train", 2, 0)]
    before = JobStatus(bill=Bill(lines=lines))
    after = fitted(before, 2000)
    assert after.bill is not None
    assert [(one.cause, one.consumed_quantity, one.list_cost) for one in after.bill.lines] == [
        ("Other", "10.500000000", "21"),
        ("Other", "1.500000000", "3"),
    ]
