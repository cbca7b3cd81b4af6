"""The bill: hours, money, and that both always add up."""

import ast
import json
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import costopt
from builders.accounting import GPU, MIDNIGHT, book, histories, price, price_books, record
from costopt.accounting.bill import MOST_LINES, make_bill
from costopt.accounting.intervals import held_of
from costopt.accounting.price_book import pin_prices
from costopt.schema.prices import PriceBook
from costopt.schema.replica import MeteredMilliseconds
from costopt.schema.status import Bill, BillLine, Total
from costopt.schema.usage import Resize, UsageRecord


def test_two_vcpus_and_four_gib_held_for_an_hour_cost_their_hours_times_their_prices() -> None:
    bill = make_bill([record()], book())
    assert [(line.resource, line.consumed_quantity, line.consumed_unit) for line in bill.lines] == [
        ("cpu", "2.000000000", "vCPU-Hours"),
        ("memory", "4.000000000", "GiB-Hours"),
    ]
    assert [(line.list_unit_price, line.list_cost) for line in bill.lines] == [("0.04", "0.08"), ("0.005", "0.02")]
    assert (bill.currency, bill.price_book, bill.list_cost, bill.priced_cost) == ("USD", "samples", "0.1", "0.1")
    assert {line.price_source for line in bill.lines} == {"a sample"}
    assert {line.price_effective_from for line in bill.lines} == {"2026-01-01"}


def test_money_keeps_every_digit_of_hours_times_price() -> None:
    bill = make_bill([record(seconds=1, resources={"cpu": "1"})], book(price("cpu", "0.033333333333")))
    assert bill.lines[0].consumed_quantity == "0.000277778"
    assert bill.list_cost == "0.000009259266666574074"


def test_hours_are_rounded_once_per_line_and_not_once_per_record() -> None:
    many = [record(f"r{number}", seconds=0.000001, resources={"cpu": "1"}) for number in range(3600)]
    assert make_bill(many, book()).lines[0].consumed_quantity == "0.000001000"


def test_the_smallest_and_the_largest_price_are_multiplied_exactly() -> None:
    small, large = "0.000000000001", "999999999999.999999999999"
    bill = make_bill([record(resources={"cpu": "1"})], book(price("cpu", small)))
    assert (bill.lines[0].list_unit_price, bill.list_cost) == (small, small)
    assert make_bill([record(resources={"cpu": "1"})], book(price("cpu", large))).list_cost == large


def test_without_a_price_book_hours_are_counted_and_money_is_unknown() -> None:
    bill = make_bill([record()], None)
    assert [line.consumed_quantity for line in bill.lines] == ["2.000000000", "4.000000000"]
    assert {line.list_cost for line in bill.lines} == {None}
    assert (bill.currency, bill.list_cost, bill.priced_cost) == (None, None, None)
    assert bill.unpriced_resources == ["cpu", "memory"]


def test_a_missing_price_makes_the_total_unknown_and_never_zero() -> None:
    bill = make_bill([record()], book(price("cpu", "0.04")))
    assert bill.list_cost is None
    assert bill.priced_cost == "0.08"
    assert bill.unpriced_resources == ["memory"]
    assert bill.by_stage == [Total(key="train", list_cost="0.08", unpriced_lines=1)]


def test_a_price_of_zero_is_a_price() -> None:
    bill = make_bill([record()], book(price("cpu", "0"), price("memory", "0.00")))
    assert (bill.list_cost, bill.unpriced_resources) == ("0", [])


def test_nothing_used_costs_nothing() -> None:
    bill = make_bill([], book())
    assert (bill.lines, bill.list_cost, bill.priced_cost) == ([], "0", "0")


def test_a_quantity_of_zero_needs_no_price() -> None:
    bill = make_bill([record(resources={"cpu": "1", GPU: "0"})], book())
    assert [line.resource for line in bill.lines] == ["cpu"]
    assert bill.list_cost == "0.04"


def test_lines_come_training_first_then_by_resource_and_cause() -> None:
    meter = MeteredMilliseconds(startup=1000, productive=2000, checkpoint=500)
    records = [record("v", stage="a-variant"), record("t", seconds=4, metered=meter)]
    lines = make_bill(records, book()).lines
    assert [(line.stage, line.resource, line.cause) for line in lines] == [
        ("train", "cpu", "Startup"),
        ("train", "cpu", "Productive"),
        ("train", "cpu", "Checkpoint"),
        ("train", "cpu", "Other"),
        ("train", "memory", "Startup"),
        ("train", "memory", "Productive"),
        ("train", "memory", "Checkpoint"),
        ("train", "memory", "Other"),
        ("a-variant", "cpu", "Productive"),
        ("a-variant", "memory", "Productive"),
    ]


def test_a_record_over_a_price_change_is_cut_at_midnight() -> None:
    prices = book(price("cpu", "1"), price("cpu", "2", effectiveFrom="2026-11-20"))
    late = record(resources={"cpu": "1"}, held_from=MIDNIGHT - timedelta(minutes=30))
    bill = make_bill([late], prices)
    lines = [(line.price_effective_from, line.consumed_quantity, line.list_cost) for line in bill.lines]
    assert lines == [("2026-01-01", "0.500000000", "0.5"), ("2026-11-20", "0.500000000", "1")]
    assert make_bill([late.model_copy(update={"outcome": "Running"})], prices).list_cost == "1.5"


def test_before_the_first_price_of_a_book_there_is_none() -> None:
    late = record(resources={"cpu": "1"}, held_from=MIDNIGHT - timedelta(minutes=30))
    bill = make_bill([late], book(price("cpu", "2", effectiveFrom="2026-11-20")))
    assert [(line.consumed_quantity, line.list_cost) for line in bill.lines] == [
        ("0.500000000", None),
        ("0.500000000", "1"),
    ]
    assert (bill.list_cost, bill.priced_cost, bill.unpriced_resources) == (None, "1", ["cpu"])


def test_a_price_change_and_causes_cut_the_same_time() -> None:
    prices = book(price("cpu", "1"), price("cpu", "2", effectiveFrom="2026-11-20"))
    meter = MeteredMilliseconds(startup=600_000, productive=1_800_000)
    late = record(resources={"cpu": "1"}, held_from=MIDNIGHT - timedelta(minutes=30), metered=meter)
    lines = [
        (line.cause, line.list_unit_price, Decimal(line.consumed_quantity) * 3600)
        for line in make_bill([late], prices).lines
    ]
    assert [(cause, unit, round(seconds)) for cause, unit, seconds in lines] == [
        ("Startup", "1", 600),
        ("Productive", "1", 1200),
        ("Productive", "2", 600),
        ("Other", "2", 1200),
    ]


def test_a_row_for_the_device_model_ends_the_general_price_on_its_day() -> None:
    general, own = price(GPU, "1"), price(GPU, "5", product="H100", effectiveFrom="2026-11-20")
    later = price(GPU, "2", effectiveFrom="2026-11-21")
    held = record(resources={GPU: "1"}, product="H100", held_from=MIDNIGHT - timedelta(hours=1), seconds=49 * 3600)
    assert make_bill([held], book(general, own, later)).list_cost == str(1 + 48 * 5)


def test_what_a_row_for_any_model_and_one_for_the_device_model_price_alike_is_one_line() -> None:
    books = [book(price("cpu", "0", product=product)) for product in ("", "H100")]
    held = [record(f"r{row}", resources={"cpu": "1"}, product="H100") for row in (0, 1)]
    (line,) = make_bill([pin_prices(each, own) for each, own in zip(held, books, strict=True)], books[0]).lines
    assert line.consumed_quantity == "2.000000000"


def test_a_resize_counts_from_the_moment_it_was_seen_and_not_before() -> None:
    smaller = Resize(since=MIDNIGHT + timedelta(seconds=3599), resources={"cpu": "0.001", GPU: "1"})
    one = record(resources={"cpu": "640"}, resizes=[smaller])
    quantities = {line.resource: Decimal(line.consumed_quantity) for line in make_bill([one], None).lines}
    assert abs(quantities["cpu"] - Decimal(640 * 3599 + Decimal("0.001")) / 3600) < Decimal("1e-9")
    assert abs(quantities[GPU] - Decimal(1) / 3600) < Decimal("1e-9")


def test_a_bill_of_more_lines_than_a_status_holds_is_put_together_and_says_so() -> None:
    records = [
        record(f"r{number}", resources={"cpu": "1", f"example.com/{number}": "1"}, product=f"model {number}")
        for number in range(MOST_LINES + 1)
    ]
    bill = make_bill(records, book())
    assert len(bill.lines) <= MOST_LINES
    assert set(bill.coarsened) == {"Products", "Resources"}
    hours = {line.resource: Decimal(line.consumed_quantity) for line in bill.lines}
    assert hours == {"cpu": MOST_LINES + 1, "other": MOST_LINES + 1}
    assert bill.by_resource[0].list_cost == str(Decimal("0.04") * (MOST_LINES + 1))
    Bill.model_validate_json(json.dumps(bill.to_plain()))


def test_the_day_of_a_price_is_the_day_in_utc() -> None:
    prices = book(price("cpu", "1"), price("cpu", "2", effectiveFrom="2026-11-20"))
    begin = datetime(2026, 11, 20, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    assert make_bill([record(resources={"cpu": "1"}, held_from=begin)], prices).list_cost == "1"


def test_records_before_and_after_a_price_change_are_two_lines() -> None:
    prices = book(price("cpu", "1"), price("cpu", "2", effectiveFrom="2026-11-20"))
    before = record("before", resources={"cpu": "1"}, held_from=MIDNIGHT - timedelta(hours=2))
    after = record("after", resources={"cpu": "1"})
    bill = make_bill([after, before], prices)
    assert [line.list_cost for line in bill.lines] == ["1", "2"]
    assert bill.list_cost == "3"


def test_an_estimated_end_and_a_clock_set_back_are_both_counted_as_estimates() -> None:
    records = [record("a", end_estimated=True), record("b", seconds=-5), record("c")]
    assert make_bill(records, book()).estimated_records == 2


def test_a_replica_seen_running_and_recorded_at_its_end_counts_once() -> None:
    running = record(seconds=1800, outcome="Running")
    ended = record(seconds=3600)
    for records in ([running, ended], [ended, running]):
        assert make_bill(records, book()).list_cost == "0.1"


def test_two_different_ends_of_one_replica_are_refused() -> None:
    with pytest.raises(ValueError, match="usage of r0 must be given once"):
        make_bill([record(seconds=1), record(seconds=2)], book())


def _sum(figures: list[str | None]) -> Decimal:
    with localcontext(prec=300):
        return sum((Decimal(figure) for figure in figures if figure is not None), Decimal(0))


KEYS: dict[str, Callable[[BillLine], str]] = {
    "by_stage": lambda line: line.stage,
    "by_resource": lambda line: line.resource,
    "by_cause": lambda line: line.cause,
}


@given(histories(), price_books())
def test_totals_are_the_sums_of_their_lines_to_the_last_digit(
    records: list[UsageRecord], prices: PriceBook | None
) -> None:
    bill = make_bill(records, prices)
    priced = _sum([line.list_cost for line in bill.lines])
    assert bill.priced_cost is None if prices is None else Decimal(str(bill.priced_cost)) == priced
    if bill.list_cost is not None:
        assert Decimal(bill.list_cost) == priced
    assert (bill.list_cost is None) == (prices is None or bool(bill.unpriced_resources))
    for name, key_of in KEYS.items():
        totals: list[Total] = getattr(bill, name)
        groups: dict[str, list[str | None]] = defaultdict(list)
        for line in bill.lines:
            groups[key_of(line)].append(line.list_cost)
        if prices is not None:
            assert {total.key: total.list_cost and Decimal(total.list_cost) for total in totals} == {
                key: _sum(costs) if any(costs) else None for key, costs in groups.items()
            }
            assert {total.key: total.unpriced_lines for total in totals} == {
                k: v.count(None) for k, v in groups.items()
            }
            assert _sum([total.list_cost for total in totals]) == priced


@given(histories(), price_books(), price_books())
def test_no_two_lines_differ_in_nothing_but_their_figures(
    records: list[UsageRecord], pinned: PriceBook | None, prices: PriceBook | None
) -> None:
    bill = make_bill([pin_prices(each, pinned) for each in records], prices)
    figures = {"consumed_quantity": "0", "list_cost": None}
    shown = [line.model_copy(update=figures).model_dump_json() for line in bill.lines]
    assert len(set(shown)) == len(shown)


@given(histories(), price_books())
def test_every_line_is_its_hours_times_its_unit_price_exactly(
    records: list[UsageRecord], prices: PriceBook | None
) -> None:
    for line in make_bill(records, prices).lines:
        assert len(line.consumed_quantity.partition(".")[2]) == 9
        assert (line.list_cost is None) == (line.list_unit_price is None)
        if line.list_cost is not None and line.list_unit_price is not None:
            with localcontext(prec=300):
                assert Decimal(line.list_cost) == Decimal(line.consumed_quantity) * Decimal(line.list_unit_price)


@given(histories(), price_books())
def test_hours_of_a_resource_differ_from_what_was_held_by_less_than_half_a_digit_per_line(
    records: list[UsageRecord], prices: PriceBook | None
) -> None:
    bill = make_bill(records, prices)
    with localcontext(prec=300):
        for resource, per_unit in (("cpu", 1), ("memory", 2**30), (GPU, 1)):
            lines = [line for line in bill.lines if line.resource == resource]
            held = sum(
                (Decimal(r.resources.get(resource, "0")) * held_of(r).microseconds for r in records), Decimal(0)
            ) / (per_unit * 3_600_000_000)
            shown = _sum([line.consumed_quantity for line in lines])
            assert abs(shown - held) <= Decimal("0.5e-9") * len(lines) + Decimal("1e-40")


@given(histories(), price_books(), st.randoms(use_true_random=False))
def test_the_order_of_records_and_repeating_them_change_nothing(
    records: list[UsageRecord], prices: PriceBook | None, random: object
) -> None:
    shuffled = records + records[: len(records) // 2]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert make_bill(shuffled, prices) == make_bill(records, prices)


@given(histories(), price_books())
def test_a_bill_is_text_without_floats_or_exponents_and_survives_json(
    records: list[UsageRecord], prices: PriceBook | None
) -> None:
    bill = make_bill(records, prices)

    def refuse(text: str) -> float:
        raise AssertionError(f"a float: {text}")

    json.loads(bill.model_dump_json(by_alias=True), parse_float=refuse)
    assert Bill.model_validate_json(bill.model_dump_json(by_alias=True)) == bill
    figures = [bill.list_cost, bill.priced_cost]
    figures += [figure for line in bill.lines for figure in (line.consumed_quantity, line.list_cost)]
    figures += [total.list_cost for total in (*bill.by_stage, *bill.by_resource, *bill.by_cause)]
    assert not [figure for figure in figures if figure and not figure.replace(".", "", 1).isdigit()]


@pytest.mark.parametrize("room", ["accounting", "plan"])
def test_no_code_of_the_room_knows_floats(room: str) -> None:
    for source in sorted((Path(costopt.__file__).parent / room).glob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            is_float = isinstance(node, ast.Constant) and isinstance(node.value, float)
            calls_float = isinstance(node, ast.Name) and node.id == "float"
            assert not is_float, f"{source.name}:{getattr(node, 'lineno', 0)} holds a float"
            assert not calls_float, f"{source.name}:{getattr(node, 'lineno', 0)} makes a float"
