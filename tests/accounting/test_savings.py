"""What steps that were not taken would have cost: exact sums, and unknown where a price is."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from builders.accounting import MIDNIGHT, book, price
from costopt.accounting.bill import make_bill
from costopt.accounting.savings import PER_STEP, saved_by
from costopt.schema.replica import MeteredMilliseconds
from costopt.schema.status import Bill
from costopt.schema.usage import UsageRecord

HOUR_MS = 3_600_000


def bill_of_training(*prices: tuple[str, str], resources: dict[str, str] | None = None, stage: str = "train") -> Bill:
    """A replica that started up for an hour, took steps for three, and saved and waited for half an hour each."""
    record = UsageRecord(
        uid="a",
        stage=stage,
        attempt=0,
        index=0,
        resources=resources or {"cpu": "2", "memory": str(2**30)},
        held_from=MIDNIGHT,
        held_until=MIDNIGHT + timedelta(hours=5),
        outcome="Succeeded",
        metered=MeteredMilliseconds(
            startup=HOUR_MS, productive=3 * HOUR_MS, data_wait=HOUR_MS // 2, checkpoint=HOUR_MS // 2
        ),
    )
    return make_bill([record], book(*(price(*each) for each in prices)))


def test_what_is_saved_is_the_pace_of_the_steps_times_those_left_without_the_start_up() -> None:
    saved = saved_by(bill_of_training(("cpu", "0.04"), ("memory", "0.005")).lines, 80, 20)
    assert [(each.resource, each.quantity, each.unit, each.list_cost) for each in saved] == [
        ("cpu", "2.000000000", "vCPU-Hours", "0.08"),  # (3 + 0.5 + 0.5) h x 2 vCPU x 20 / 80
        ("memory", "1.000000000", "GiB-Hours", "0.005"),
    ]


def test_the_cost_of_a_resource_without_a_price_is_unknown_and_not_zero() -> None:
    saved = {each.resource: each for each in saved_by(bill_of_training(("cpu", "0.04")).lines, 80, 20)}
    assert saved["cpu"].list_cost == "0.08"
    assert saved["memory"].list_cost is None
    assert saved["memory"].quantity == "1.000000000"
    assert "listCost" not in saved["memory"].to_plain()


def test_variants_are_not_counted_and_of_no_steps_nothing_is_known() -> None:
    assert saved_by(bill_of_training(("cpu", "1"), stage="int8").lines, 80, 20) == []
    assert saved_by(bill_of_training(("cpu", "1")).lines, 0, 20) == []


@given(taken=st.integers(1, 10**6), left=st.integers(0, 10**6), cents=st.integers(0, 10**6))
def test_hours_are_rounded_once_and_money_is_exactly_hours_times_price(taken: int, left: int, cents: int) -> None:
    unit = Decimal(cents) / 100
    bill = bill_of_training(("cpu", f"{unit}"), resources={"cpu": "3"})
    [saved] = saved_by(bill.lines, taken, left)
    counted = [Fraction(line.consumed_quantity) for line in bill.lines if line.cause in PER_STEP]
    exact = sum(counted) * left / taken
    assert abs(Fraction(saved.quantity) - exact) <= len(counted) * Fraction(1, 2 * 10**9)
    assert Decimal(saved.list_cost or "x") == Decimal(saved.quantity) * unit
