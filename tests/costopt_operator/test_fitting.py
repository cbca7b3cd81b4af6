"""However much there is to tell, a status fits into its object, and what decides something is always in it."""

import json
from datetime import UTC, datetime

import pytest

from costopt.schema.replica import Progress
from costopt.schema.status import Bill, BillLine, Condition, Failure, JobStatus, StageStatus, Total
from costopt.schema.usage import FoldedUsage, Usage, UsageRecord
from costopt_operator.fitting import fitted
from costopt_operator.observe import LARGEST_STATUS
from costopt_operator.sightings import stored_bytes

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CAUSES = ("Startup", "Productive", "DataWait", "Checkpoint", "LostProgress", "Recovery", "Other")
STAGES = ["train", *(f"variant-{number}" for number in range(16))]


def failure(stage: str) -> Failure:
    """As long as one can be."""
    tail = ["é<" * 1000] * 40
    return Failure(stage=stage, attempt=3, reason="ProcessFailed", message="why<" * 750, exit_code=1, log_tail=tail)


def line(stage: str, resource: int, cause: int) -> BillLine:
    """One line of the bill: 1.5 unit-hours at 2."""
    return BillLine(
        stage=stage,
        resource=f"example.com/{'n' * 40}{resource}",
        cause=CAUSES[cause],  # type: ignore[arg-type]
        product="p" * 60,
        consumed_quantity="1.500000000",
        consumed_unit="Unit-Hours",
        list_unit_price="2",
        list_cost="3",
        price_source="s" * 256,
        price_effective_from="2026-01-01",
    )


def record(number: int) -> UsageRecord:
    """A usual one, on a node with all the labels that are kept."""
    return UsageRecord(
        uid=f"11111111-2222-3333-4444-{number:012}",
        stage="train",
        attempt=3,
        index=number,
        resources={"cpu": "64", "memory": "549755813888", "nvidia.com/gpu": "8"},
        product="NVIDIA-H100-80GB-HBM3",
        node="gke-a-rather-long-name-of-a-node-pool-12345678-abcd",
        node_labels={f"label-{number}": "v" * 60 for number in range(10)},
        held_from=NOW,
        held_until=NOW,
        outcome="Failed",
    )


def full() -> JobStatus:
    """All at once, as much as each part may have."""
    lines = [line(stage, resource, cause) for stage in STAGES for resource in range(16) for cause in range(7)]
    sums = [
        FoldedUsage(
            stage="train", resource="cpu", cause="Other", day="2026-01-01", quantity_microseconds=str(10**30 + n)
        )
        for n in range(600)
    ]
    return JobStatus(
        conditions=[
            Condition(type=kind, status="True", reason="Why", message="long<" * 800, last_transition_time=NOW)
            for kind in ("Succeeded", "Suspended", "Stalled", "BudgetExceeded", "Priced")
        ],
        stages=[
            StageStatus(name=name, state="Failed", phase="p" * 256, failures=4, failure=failure(name))
            for name in STAGES
        ],
        progress=Progress(step=1, total_steps=2, checkpoints_passed_over="damaged " * 500),
        bill=Bill(
            currency="USD", lines=lines[:2000], by_cause=[Total(key="Other", list_cost="6000")], list_cost="6000"
        ),
        usage=Usage(records=[record(number) for number in range(256)], folded=sums),
        failure=failure("train"),
    )


@pytest.mark.parametrize("room", [LARGEST_STATUS, 1_000_000, 700_000, 524_288])
def test_the_largest_status_fits_and_decides_the_same(room: int) -> None:
    before = full()
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
    usual = full().model_copy(update={"usage": None, "bill": None, "failure": None, "stages": []})
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
