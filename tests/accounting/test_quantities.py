"""Any quantities fit into a record, and no amount of them is lost."""

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from builders.accounting import MIDNIGHT, book, record
from costopt.accounting.exact import total
from costopt.accounting.held import Held, Shape, mark_of, read_held, write_held
from costopt.accounting.price_book import pin_prices
from costopt.accounting.quantities import FIRST, Quantities, bounded
from costopt.schema.base import decimal
from costopt.schema.usage import MAX_PRICES, MAX_RESOURCES, HeldPods, Resize, UsageRecord

NAMES = st.sampled_from([*FIRST, "other", *(f"example.com/{number}" for number in range(40)), "", "x" * 257])
AMOUNTS = st.dictionaries(NAMES, st.integers(0, 10**6).map(Decimal), max_size=40)


def without_zeros(held: dict[str, Decimal]) -> dict[str, Decimal]:
    return {name: amount for name, amount in held.items() if amount}


@given(AMOUNTS, st.sets(NAMES, max_size=20))
def test_what_is_put_together_adds_up_and_the_usual_resources_stay_apart(
    held: dict[str, Decimal], known: set[str]
) -> None:
    quantities, merged = bounded(held, known)
    found = {name: decimal(amount) for name, amount in quantities}
    assert len(found) <= MAX_RESOURCES
    assert total(found.values()) == total(held.values())
    assert {name: found[name] for name in FIRST if name in held} == {name: held[name] for name in FIRST if name in held}
    assert merged == ({name: amount for name, amount in found.items() if amount} != without_zeros(held))
    again = bounded(found, known | found.keys())
    assert again == (quantities, False), "what was bounded is bounded to something else"
    assert bounded(held, known | found.keys()).quantities == quantities, "the same quantities are told otherwise"


def as_text(held: dict[str, Decimal]) -> Quantities:
    return tuple((name, str(amount)) for name, amount in held.items())


@given(st.lists(AMOUNTS, min_size=1, max_size=12), st.data())
def test_after_any_resizes_a_status_gives_back_the_same_shape_and_prices_and_the_same_quantities_are_no_news(
    steps: list[dict[str, Decimal]], data: st.DataObject
) -> None:
    shape = Shape("train", 0, bounded(steps[0]).quantities)
    for step in steps[1:]:
        since = MIDNIGHT + timedelta(seconds=data.draw(st.integers(0, 1000)))
        shape = shape.resized(as_text(step), since)
        assert shape.told(as_text(step)).quantities == shape.now
    (back,) = read_held(write_held([Held(shape, 0, mark_of("a pod"), MIDNIGHT)]))
    assert back.shape == shape
    assert shape.fits


def test_a_pod_of_ten_resources_that_is_resized_to_seven_others_keeps_them_over_a_restart() -> None:
    shape = Shape("train", 0, tuple((f"example.com/{number:02}", "1") for number in range(10)))
    others = tuple((f"x/{number}", "1") for number in range(11, 18))
    shape = shape.resized(others, MIDNIGHT)
    assert shape.now == (("other", "1"), *others[:6])
    (back,) = read_held(write_held([Held(shape, 0, mark_of("a pod"), MIDNIGHT)]))
    assert back.shape == shape
    assert shape.told(others).quantities == shape.now


def test_a_status_in_which_somebody_has_written_too_many_names_is_read_as_far_as_a_record_has_room() -> None:
    resizes = [
        Resize(since=MIDNIGHT, resources={f"x/{change}-{number}": "1" for number in range(16)}) for change in range(8)
    ]
    group = HeldPods(
        stage="train", attempt=0, resources={"cpu": "1"}, resizes=resizes, since=MIDNIGHT, pods=["0 0 - 0123456789"]
    )
    (held,) = read_held([group])
    assert held.shape.fits
    assert held.shape.resources_estimated
    assert held.shape.now == (("other", "16"),)


@given(st.lists(AMOUNTS, min_size=1, max_size=9))
def test_a_record_of_any_resizes_has_room_for_all_its_quantities_and_prices(steps: list[dict[str, Decimal]]) -> None:
    shape = Shape("train", 0, bounded(steps[0]).quantities)
    for step in steps[1:]:
        shape = shape.resized(as_text(step), MIDNIGHT)
    resizes = [Resize(since=since, resources=dict(quantities)) for since, quantities in shape.resizes]
    whole = pin_prices(record(resources=dict(shape.resources), resizes=resizes), book())
    assert len(whole.prices or ()) <= MAX_PRICES
    assert UsageRecord.model_validate_json(whole.model_dump_json()) == whole
