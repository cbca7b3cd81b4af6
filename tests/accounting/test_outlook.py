"""What has no price today, and what was used without one."""

from datetime import date

import pytest

from builders.accounting import GPU, book, price, record
from builders.plan import INT8, spec
from costopt.accounting.bill import make_bill
from costopt.accounting.outlook import MissingPrice, Outlook, outlook, still_requested
from costopt.accounting.price_book import pin_prices
from costopt.schema.status import JobStatus, StageStatus

DAY = date(2026, 11, 21)
HELD = record(resources={"cpu": "2", GPU: "1"}, product="H100", capacity_type="Spot")
SPOT_CPU = price("cpu", "0.01", capacityType="Spot")

BOOKS = [
    ("a price of 0", [SPOT_CPU, price(GPU, "0", capacityType="Spot")], Outlook(True, (), "0")),
    ("a price that came later", [SPOT_CPU, price(GPU, "3", capacityType="Spot")], Outlook(True, (), "3")),
    ("another device model", [SPOT_CPU, price(GPU, "3", product="A100", capacityType="Spot")], None),
    ("another kind of capacity", [SPOT_CPU, price(GPU, "3")], None),
    ("a price of tomorrow", [SPOT_CPU, price(GPU, "3", capacityType="Spot", effectiveFrom="2026-11-22")], None),
]


@pytest.mark.parametrize(("rows", "ahead"), [case[1:] for case in BOOKS], ids=[case[0] for case in BOOKS])
@pytest.mark.parametrize("requested", [(), ("cpu", GPU)], ids=["nothing to come", "more to come"])
def test_what_was_used_without_a_price_counts_at_todays_or_is_missing(
    rows: list[dict[str, str]], ahead: Outlook | None, requested: tuple[str, ...]
) -> None:
    recorded = pin_prices(HELD, book(SPOT_CPU))
    bill = make_bill([recorded], book(*rows))
    assert bill.unpriced_resources == [GPU]
    expected = ahead or Outlook(True, (MissingPrice(GPU, "H100", "Spot"),))
    assert outlook(bill, book(*rows), requested, DAY) == expected


def test_what_is_asked_for_needs_a_price_of_any_kind() -> None:
    bill = make_bill([], book())
    rows = (price("cpu", "0.01", capacityType="Spot"), price(GPU, "3", product="A100"))
    assert outlook(bill, book(*rows), ["cpu", GPU, "memory"], DAY).missing == (MissingPrice("memory"),)
    assert outlook(bill, book(price("cpu", "1", effectiveFrom="2027-01-01")), ["cpu"], DAY).missing


def test_without_a_book_nothing_has_a_price() -> None:
    assert outlook(make_bill([], None), None, [], DAY) == Outlook(has_book=False)


def test_what_is_done_asks_for_nothing_more() -> None:
    gpus = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {GPU: "1", "example.com/nic": "0"}}
    job = spec({**INT8, "resources": gpus})
    assert still_requested(job, JobStatus()) == {"cpu", "memory", GPU}
    made = JobStatus(stages=[StageStatus(name="train", state="Running"), StageStatus(name="int8", state="Failed")])
    assert still_requested(job, made) == {"cpu", "memory"}
