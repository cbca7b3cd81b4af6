"""Prices that stay, and records folded into sums: the bill never changes by a digit."""

import json
from collections.abc import Iterable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders_accounting import GPU, MIDNIGHT, book, histories, price, price_books, record
from costopt.accounting.bill import bill_of, make_bill
from costopt.accounting.fold import fold
from costopt.accounting.price_book import pin_prices
from costopt.schema.prices import PriceBook
from costopt.schema.status import JobStatus
from costopt.schema.usage import MAX_FOLDED, Usage, UsageRecord

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


def test_sums_beyond_their_limit_are_not_made() -> None:
    days = [record(f"r{day}", held_from=MIDNIGHT + timedelta(days=day)) for day in range(MAX_FOLDED // 2 + 1)]
    most = fold(Usage(records=days[:250]), {each.uid for each in days})
    for begin in range(250, len(days) - 1, 250):
        most = fold(most.model_copy(update={"records": days[begin : begin + 250]}), {each.uid for each in days})
    full = most.model_copy(update={"records": days[-1:]})
    assert len(full.folded) == MAX_FOLDED
    assert fold(full, {days[-1].uid}) is full


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
