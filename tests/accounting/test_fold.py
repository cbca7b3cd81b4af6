"""Prices that stay, and records folded into sums: the bill never changes by a digit."""

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.accounting import GPU, MIDNIGHT, book, histories, price, price_books, record, usage_records
from costopt.accounting.bill import bill_of, make_bill
from costopt.accounting.fold import fold
from costopt.accounting.intervals import held_of
from costopt.accounting.price_book import pin_prices
from costopt.schema.prices import PriceBook
from costopt.schema.status import JobStatus
from costopt.schema.usage import MAX_PRICES, Usage, UsageRecord

HOURLY = {"resources": {"cpu": "1"}}


def test_a_pinned_price_stays_when_the_book_changes() -> None:
    kept = pin_prices(record(**HOURLY), book(price("cpu", "1")))
    assert (kept.currency, [each.list_unit_price for each in kept.prices or []]) == ("USD", ["1"])
    later = record("later", **HOURLY)
    bill = make_bill([kept, later], book(price("cpu", "2")))
    assert [(line.list_unit_price, line.list_cost) for line in bill.lines] == [("1", "1"), ("2", "2")]
    assert pin_prices(kept, book(price("cpu", "3"))) == kept


def test_what_was_pinned_without_a_price_stays_without_one() -> None:
    kept = pin_prices(record(), book(price("cpu", "1")))
    assert [(each.resource, each.list_unit_price) for each in kept.prices or []] == [("cpu", "1"), ("memory", None)]
    bill = make_bill([kept], book(price("cpu", "1"), price("memory", "1")))
    assert (bill.list_cost, bill.priced_cost, bill.unpriced_resources) == (None, "2", ["memory"])


def test_without_a_book_nothing_is_pinned_and_a_later_book_gives_the_price() -> None:
    kept = pin_prices(record(), None)
    assert kept == record()
    assert make_bill([kept], book()).list_cost == "0.1"


def test_when_the_book_is_gone_old_usage_keeps_its_price_and_new_usage_has_none() -> None:
    bill = make_bill([pin_prices(record(**HOURLY), book()), record("new", **HOURLY)], None)
    assert (bill.currency, bill.price_book) == ("USD", None)
    assert [line.list_cost for line in bill.lines] == [None, "0.04"]
    assert (bill.list_cost, bill.priced_cost, bill.unpriced_resources) == (None, "0.04", ["cpu"])
    assert bill.by_stage[0].unpriced_lines == 1


def test_what_was_pinned_in_another_currency_has_no_price() -> None:
    kept = pin_prices(record(**HOURLY), book(price("cpu", "1")))
    bill = make_bill([kept, record("new", **HOURLY)], book(price("cpu", "2"), currency="EUR"))
    assert (bill.currency, bill.list_cost, bill.priced_cost) == ("EUR", None, "2")


def test_a_quantity_of_zero_is_not_pinned() -> None:
    kept = pin_prices(record(resources={"cpu": "1", GPU: "0"}), book())
    assert [each.resource for each in kept.prices or []] == ["cpu"]


def test_folding_an_unknown_replica_changes_nothing() -> None:
    usage = Usage(records=[record()])
    assert fold(usage, {"another"}) is usage


def test_a_record_of_a_running_replica_is_not_folded() -> None:
    usage = Usage(records=[record(outcome="Running")])
    assert fold(usage, {"r0"}) is usage


def test_many_attempts_fold_into_few_sums() -> None:
    records = [record(f"r{number}", attempt=number) for number in range(200)]
    folded = fold(Usage(records=records), {each.uid for each in records})
    assert (folded.records, folded.folded_records, len(folded.folded)) == ([], 200, 2)
    assert folded.folded[0].quantity_microseconds == str(200 * 2 * 3600 * 10**6)


def test_without_a_price_book_no_day_is_kept() -> None:
    days = [record(f"r{day}", held_from=MIDNIGHT + timedelta(days=day)) for day in range(200)]
    folded = fold(Usage(records=days), {each.uid for each in days}, dated=False)
    assert [each.day for each in folded.folded] == [None, None]
    dated = fold(Usage(records=days), {each.uid for each in days})
    more = dated.model_copy(update={"records": [record("new")]})
    assert fold(more, {"new"}, dated=False).folded[0].day is None, "days that were kept before go too"


@pytest.fixture
def few_sums(monkeypatch: pytest.MonkeyPatch) -> int:
    """Sums kept during the test: fewer, so that a life of months is long."""
    monkeypatch.setattr("costopt.accounting.fold.MOST_SUMS", 60)
    return 60


def test_sums_beyond_their_limit_are_made_coarser_and_keep_every_hour(few_sums: int) -> None:
    usage = Usage()
    for day in range(150):
        usage = usage.model_copy(update={"records": [record("r", held_from=MIDNIGHT + timedelta(days=day))]})
        usage = fold(usage, {"r"})
        assert len(usage.folded) <= few_sums
    assert usage.folded_records == 150
    assert usage.coarsened == ["Days"]
    bill = bill_of(usage, [], None)
    assert bill.coarsened == ["Days"]
    assert {line.resource: line.consumed_quantity for line in bill.lines} == {
        "cpu": f"{2 * 150}.000000000",
        "memory": f"{4 * 150}.000000000",
    }


def test_prices_that_are_too_many_become_their_mean_and_cost_the_same(few_sums: int) -> None:
    usage, cost = Usage(), Decimal(0)
    for number in range(2 * few_sums):
        amount = f"0.{number + 1:04}"
        pinned = pin_prices(record("r", **HOURLY), book(price("cpu", amount)))
        usage = fold(usage.model_copy(update={"records": [pinned]}), {"r"})
        cost += Decimal(amount)
    assert usage.coarsened == ["Prices"]
    found = bill_of(usage, [], book())
    assert found.list_cost is not None
    assert 0 <= Decimal(found.list_cost) - cost < Decimal("1e-6")
    assert found.coarsened == ["Prices"]


def test_a_record_held_over_more_price_changes_than_it_keeps_costs_the_same() -> None:
    rows = [
        price("cpu", f"{1 + day % 7}", effectiveFrom=(MIDNIGHT + timedelta(days=day)).date().isoformat())
        for day in range(100)
    ]
    held = record(**HOURLY, seconds=100 * 86400, stage="int8")
    kept = pin_prices(held, book(*rows))
    assert len(kept.prices or []) == MAX_PRICES
    bill = make_bill([kept], book(*rows))
    assert bill.list_cost is not None
    assert abs(Decimal(bill.list_cost) - sum(24 * (1 + day % 7) for day in range(100))) < Decimal("1e-6")
    assert bill.coarsened == ["Prices"]
    assert make_bill([held.model_copy(update={"outcome": "Running"})], book(*rows)) == bill


def test_usage_takes_little_room_in_the_status() -> None:
    text = JobStatus(usage=Usage(records=[record()])).to_plain()
    assert text["usage"] == {
        "records": [
            {
                "uid": "r0",
                "stage": "train",
                "attempt": 0,
                "index": 0,
                "resources": {"cpu": "2", "memory": str(4 * 2**30)},
                "heldFrom": "2026-11-20T00:00:00Z",
                "heldUntil": "2026-11-20T01:00:00Z",
                "outcome": "Succeeded",
            }
        ]
    }
    full = pin_prices(record(f"{'u' * 36}", node="n" * 60, node_labels={"topology.kubernetes.io/zone": "z"}), book())
    assert len(Usage(records=[full]).model_dump_json(by_alias=True, exclude_defaults=True)) < 1000


@st.composite
def years(draw: st.DrawFn) -> tuple[list[UsageRecord], list[PriceBook | None]]:
    """Restarts for years, at prices that come, go and change."""
    number = draw(st.integers(1, 16))
    pace = timedelta(hours=draw(st.integers(1, 2000)))
    records = []
    for place in range(number):
        one = draw(usage_records(f"r{place}"))
        length = one.held_until - one.held_from
        begin = MIDNIGHT + place * pace
        records.append(one.model_copy(update={"held_from": begin, "held_until": begin + length}))
    return records, [draw(st.none() | price_books()) for _ in range(number)]


@given(years(), st.booleans(), st.sampled_from([24, 40]))
def test_however_often_a_job_restarts_recording_goes_on_and_hours_stay_exact(
    life: tuple[list[UsageRecord], list[PriceBook | None]], dated: bool, most: int
) -> None:
    usage = Usage()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("costopt.accounting.fold.MOST_SUMS", most)
        for one, prices in zip(*life, strict=True):
            usage = fold(usage.model_copy(update={"records": [pin_prices(one, prices)]}), {one.uid}, dated=dated)
            assert len(usage.folded) <= most
            assert usage.records == []
    assert usage.folded_records == len(life[0])
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for each in usage.folded:
        sums[each.resource] += Decimal(each.quantity_microseconds)
    whole: defaultdict[str, Decimal] = defaultdict(Decimal)
    for one in life[0]:
        for resource, quantity in one.resources.items():
            if held_of(one).microseconds and Decimal(quantity):
                named = resource if resource in sums else "other"
                whole[named] += Decimal(quantity) * held_of(one).microseconds
    assert sums == whole
    assert JobStatus.model_validate_json(json.dumps(JobStatus(usage=usage).to_plain())).usage == usage


# Properties. A history is pinned in parts, with different books, as a book changes while a job runs.

pins = st.lists(st.sampled_from(["not", "first", "second"]), min_size=8, max_size=8)


def pinned_in_part(
    records: Iterable[UsageRecord], first: PriceBook | None, second: PriceBook | None, how: list[str]
) -> list[UsageRecord]:
    books = {"not": None, "first": first, "second": second}
    return [pin_prices(each, books[way]) for each, way in zip(records, how, strict=False)]


@given(histories(), price_books())
def test_pinning_the_prices_that_apply_changes_no_digit(records: list[UsageRecord], prices: PriceBook | None) -> None:
    pinned = [pin_prices(each, prices) for each in records]
    assert make_bill(pinned, prices).to_plain() == make_bill(records, prices).to_plain()


@given(histories(), price_books(), price_books(), pins, st.data())
def test_folding_any_records_in_any_order_changes_no_digit_of_the_bill(
    records: list[UsageRecord],
    first: PriceBook | None,
    second: PriceBook | None,
    how: list[str],
    data: st.DataObject,
) -> None:
    whole = Usage(records=pinned_in_part(records, first, second, how))
    order = data.draw(st.permutations([each.uid for each in whole.records]))
    chosen = order[: data.draw(st.integers(0, len(order)))]
    folded = whole
    for uid in chosen:
        folded = fold(folded, {uid})
        assert fold(folded, {uid, "never seen"}) == folded
    assert folded == fold(whole, set(chosen)), "folding one by one differs from folding at once"
    written = json.dumps(JobStatus(usage=folded).to_plain())
    assert JobStatus.model_validate_json(written).usage == folded
    assert folded.folded_records == len(chosen)
    for prices in (first, second):
        assert bill_of(folded, [], prices).model_dump_json() == bill_of(whole, [], prices).model_dump_json(), (
            "the bill changed"
        )


@given(histories(), price_books(), pins, st.randoms(use_true_random=False))
def test_the_order_of_records_changes_no_sum(
    records: list[UsageRecord], prices: PriceBook | None, how: list[str], random: object
) -> None:
    kept = pinned_in_part(records, prices, None, how)
    everyone = {each.uid for each in kept}
    shuffled = list(kept)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fold(Usage(records=shuffled), everyone) == fold(Usage(records=kept), everyone)


@pytest.mark.parametrize("quantity", ["1e-99", "1e30", "0.0000000000000000000000000001"])
def test_the_smallest_and_the_largest_quantity_are_folded_exactly(quantity: str) -> None:
    usage = Usage(records=[record("a", resources={"cpu": quantity}), record("b", resources={"cpu": "1"})])
    assert bill_of(fold(usage, {"a", "b"}), [], book()) == bill_of(usage, [], book())


def _padded(book_: PriceBook) -> PriceBook:
    """The same book, its prices with zeros that say nothing."""
    plain = book_.to_plain()
    for row in plain["spec"]["prices"]:
        amount = row["listUnitPrice"]
        row["listUnitPrice"] = f"0{amount}" + ("0" if "." in amount else ".00")
    return PriceBook.model_validate(plain)


@given(st.data(), histories(), price_books())
def test_zeros_that_say_nothing_make_no_other_price(
    data: st.DataObject, records: list[UsageRecord], prices: PriceBook | None
) -> None:
    padded = None if prices is None else _padded(prices)
    assert make_bill(records, padded) == make_bill(records, prices)
    mixed = [pin_prices(each, data.draw(st.sampled_from([prices, padded]))) for each in records]
    chosen = {each.uid for each in records if data.draw(st.booleans())}
    assert bill_of(fold(Usage(records=mixed), chosen), [], prices) == make_bill(records, prices)


def test_a_status_that_has_one_price_in_two_words_has_one_line_of_it() -> None:
    kept = [pin_prices(record(uid, **HOURLY), book(price("cpu", "2"))).to_plain() for uid in ("one", "other")]
    kept[1]["prices"][0]["listUnitPrice"] = "02.0"
    [line] = make_bill([UsageRecord.model_validate_json(json.dumps(each)) for each in kept], None).lines
    assert (line.list_unit_price, line.list_cost) == ("2", "4")
