"""Usage records and price books for tests, and hypothesis strategies of them."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from costopt.schema.prices import PriceBook, pricing_unit
from costopt.schema.replica import MeteredMilliseconds
from costopt.schema.usage import UsageRecord

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
GPU = "nvidia.com/gpu"


def record(uid: str = "r0", *, seconds: float = 3600, **changed: Any) -> UsageRecord:
    """One replica that held 2 vCPU and 4 GiB, an hour unless told otherwise, and succeeded."""
    begin = changed.pop("held_from", MIDNIGHT)
    fields: dict[str, Any] = {
        "uid": uid,
        "stage": "train",
        "attempt": 0,
        "index": 0,
        "resources": {"cpu": "2", "memory": str(4 * 2**30)},
        "held_from": begin,
        "held_until": begin + timedelta(seconds=seconds),
        "outcome": "Succeeded",
        **changed,
    }
    return UsageRecord(**fields)


def price(resource: str, amount: str, **changed: Any) -> dict[str, Any]:
    """One row of a price book, as plain data."""
    return {
        "resource": resource,
        "unit": pricing_unit(resource),
        "listUnitPrice": amount,
        "effectiveFrom": "2026-01-01",
        "source": "a sample",
        **changed,
    }


def book(*rows: dict[str, Any], currency: str = "USD") -> PriceBook:
    """A price book; of cpu at 0.04 and memory at 0.005 unless told otherwise."""
    return PriceBook.model_validate(
        {
            "apiVersion": "costopt.dev/v1alpha1",
            "kind": "PriceBook",
            "metadata": {"name": "samples"},
            "spec": {
                "currency": currency,
                "prices": list(rows or (price("cpu", "0.04"), price("memory", "0.005"))),
            },
        }
    )


quantities = st.sampled_from(["1", "2", "0.25", "0.001", "8", "0", "17179869184", "100000001"])
meters = st.none() | st.builds(
    MeteredMilliseconds,
    startup=st.integers(0, 10**5),
    productive=st.integers(0, 10**7),
    since_checkpoint=st.integers(0, 10**5),
    recovery=st.integers(0, 10**5),
    lost=st.integers(0, 10**5),
    data_wait=st.integers(0, 10**4),
    checkpoint=st.integers(0, 10**4),
    selecting=st.integers(0, 10**4),
)
moments = st.integers(0, 120 * 86400 * 10**6).map(
    lambda microseconds: MIDNIGHT - timedelta(days=50) + timedelta(microseconds=microseconds)
)


@st.composite
def usage_records(draw: st.DrawFn, uid: str) -> UsageRecord:
    """Any record of a replica `uid` that has ended."""
    begin = draw(moments)
    return record(
        uid,
        stage=draw(st.sampled_from(["train", "int8", "pruned"])),
        attempt=draw(st.integers(0, 3)),
        index=draw(st.integers(0, 3)),
        resources=draw(st.dictionaries(st.sampled_from(["cpu", "memory", GPU, "example.com/nic"]), quantities)),
        product=draw(st.sampled_from([None, "H100", "A100"])),
        capacity_type=draw(st.sampled_from(["OnDemand", "Spot"])),
        held_from=begin,
        held_until=begin + timedelta(microseconds=draw(st.integers(-(10**7), 10**12))),
        end_estimated=draw(st.booleans()),
        outcome=draw(st.sampled_from(["Succeeded", "Failed", "Disrupted", "Suspended"])),
        metered=draw(meters),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[UsageRecord]:
    """Records of up to eight replicas."""
    return [draw(usage_records(f"replica-{number}")) for number in range(draw(st.integers(0, 8)))]


@st.composite
def price_books(draw: st.DrawFn) -> PriceBook | None:
    """No book, or any book, which may leave resources, capacity types and early days without a price."""
    keys = draw(
        st.sets(
            st.tuples(
                st.sampled_from(["cpu", "memory", GPU]),
                st.sampled_from(["", "H100", "A100"]),
                st.sampled_from(["OnDemand", "Spot"]),
                st.dates(date(2026, 9, 1), date(2027, 1, 1)),
            ),
            max_size=12,
        )
    )
    if not keys:
        return None
    amounts = st.sampled_from(["0", "0.04", "0.0003", "2.10", "98.32", "0.000000001", "1000000"])
    rows = [
        price(resource, draw(amounts), product=product, capacityType=capacity_type, effectiveFrom=day.isoformat())
        for resource, product, capacity_type, day in sorted(keys)
    ]
    return book(*rows)
