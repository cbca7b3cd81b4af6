"""Any quantities fit into a record, and no amount of them is lost."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from builders.accounting import MIDNIGHT, book, record
from costopt.accounting.exact import total
from costopt.accounting.held import Shape
from costopt.accounting.price_book import pin_prices
from costopt.accounting.quantities import FIRST, bounded
from costopt.schema.base import decimal
from costopt.schema.usage import MAX_PRICES, MAX_RESOURCES, Resize, UsageRecord

NAMES = st.sampled_from([*FIRST, "other", *(f"example.com/{number}" for number in range(40)), "", "x" * 257])
AMOUNTS = st.dictionaries(NAMES, st.integers(0, 10**6).map(Decimal), max_size=40)


@given(AMOUNTS, st.sets(NAMES, max_size=20))
def test_what_is_put_together_adds_up_and_the_usual_resources_stay_apart(
    held: dict[str, Decimal], known: set[str]
) -> None:
    quantities, merged = bounded(held, known)
    found = {name: decimal(amount) for name, amount in quantities}
    assert len(found) <= MAX_RESOURCES
    assert total(found.values()) == total(held.values())
    assert {name: found[name] for name in FIRST if name in held} == {name: held[name] for name in FIRST if name in held}
    assert merged == (found != held) or not any(held.values())


@given(st.lists(AMOUNTS, min_size=1, max_size=9))
def test_a_record_of_any_resizes_has_room_for_all_its_quantities_and_prices(steps: list[dict[str, Decimal]]) -> None:
    shape = Shape("train", 0, bounded(steps[0]).quantities)
    for step in steps[1:]:
        shape = shape.resized(tuple((name, str(amount)) for name, amount in step.items()), MIDNIGHT)
    resizes = [Resize(since=since, resources=dict(quantities)) for since, quantities in shape.resizes]
    whole = pin_prices(record(resources=dict(shape.resources), resizes=resizes), book())
    assert len(whole.prices or ()) <= MAX_PRICES
    assert UsageRecord.model_validate_json(whole.model_dump_json()) == whole
