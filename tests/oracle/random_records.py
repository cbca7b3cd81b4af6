"""Usage records as they may be written, each with what it means on the oracle's line of time.

Moments are written in many zones, with offsets and with names, around the days on which clocks are set forward and
back; the day of a price is that of UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from random import Random
from zoneinfo import ZoneInfo

from costopt.schema.prices import PriceBook, pricing_unit
from costopt.schema.replica import MeteredMilliseconds
from costopt.schema.usage import Outcome, UsageRecord
from oracle.exact_bill import HOUR, Book, Holding, Meter, Microseconds, Rate, Row, microseconds, moment, number

ZONES: Sequence[tzinfo] = [
    UTC,
    ZoneInfo("Europe/Berlin"),
    ZoneInfo("America/New_York"),
    ZoneInfo("Australia/Lord_Howe"),  # sets its clocks by half an hour
    ZoneInfo("Pacific/Apia"),
    timezone(timedelta(hours=5, minutes=45)),
    timezone(timedelta(hours=-11)),
]
BEGINNINGS = [
    microseconds(datetime(*day, tzinfo=UTC))
    for day in [
        (2026, 3, 8, 6, 50),  # New York forward
        (2026, 3, 29, 0, 50),  # Berlin forward
        (2026, 4, 4, 14, 50),  # Lord Howe back
        (2026, 10, 25, 0, 50),  # Berlin back
        (2026, 11, 1, 5, 50),  # New York back
        (2026, 12, 31, 23, 59),
        (2028, 2, 28, 22, 0),
    ]
]
QUANTITIES = ["1", "2", "0.25", "0.001", "0.000000001", "8", "0", "3e-4", "17179869184", "1000000000000001", "2.5e15"]
AMOUNTS = ["0", "0.04", "0.0400", "0.0003", "2.10", "98.32", "0.000000000001", "999999999999.999999999999"]
RESOURCES = ["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "example.com/nic", "hugepages-2Mi"]
PRODUCTS = [None, "H100", "NVIDIA A100-SXM4-80GB"]
CAPACITY_TYPES = ["OnDemand", "Spot", "Reserved"]
OUTCOMES: Sequence[Outcome] = ["Succeeded", "Failed", "Stalled", "Disrupted", "Suspended", "Stopped"]
STAGES = ["train", "int8", "abc"]
_ROW_DAYS = [-400, -1, 0, 0, 1, 1, 2, 3]
"""When rows of a price book begin, counted from the day about which records are made."""


@dataclass(frozen=True)
class Written:
    """A record and what it means."""

    record: UsageRecord
    holding: Holding


def random_book(random: Random, name: str, currency: str, around: Microseconds) -> Book:
    """A price book; many of its rows begin within a few days of a moment, some long before."""
    rows: dict[tuple[str, str, str, date], Row] = {}
    for number_of_row in range(random.randint(1, 25)):
        day = (moment(around) + timedelta(days=random.choice(_ROW_DAYS))).date()
        key = (
            random.choice(RESOURCES[:5]),
            random.choice(["", "", *PRODUCTS[1:]]),
            random.choice(CAPACITY_TYPES[:2]),
            day,
        )
        rate = Rate(random.choice(AMOUNTS), day.isoformat(), f"{name}, row {number_of_row % 3}")
        rows[key] = Row(*key, rate)
    return Book(name, currency, tuple(rows.values()))


def price_book(book: Book) -> PriceBook:
    """The same as costopt reads it."""
    rows = [
        {
            "resource": row.resource,
            "unit": pricing_unit(row.resource),
            "listUnitPrice": row.rate.amount,
            "product": row.product,
            "capacityType": row.capacity_type,
            "effectiveFrom": row.since.isoformat(),
            "source": row.rate.source,
        }
        for row in book.rows
    ]
    return PriceBook.model_validate(
        {
            "apiVersion": "costopt.dev/v1alpha1",
            "kind": "PriceBook",
            "metadata": {"name": book.name},
            "spec": {"currency": book.currency, "prices": rows},
        }
    )


def random_record(random: Random, uid: str, around: Microseconds) -> Written:
    """A record of a replica that was placed about then, and has ended."""
    begin = around + random.choice([0, random.randrange(HOUR), random.randrange(HOUR) // 10**6 * 10**6])
    lasting = random.choice([0, 1, random.randrange(10**6), random.randrange(HOUR), random.randrange(100 * HOUR)])
    set_back = random.random() < 0.03
    zone = random.choice(ZONES)
    metered = None
    if random.random() < 0.6:
        most = random.choice([lasting // 2000, lasting // 10000, 10**6])
        names = (
            "startup",
            "productive",
            "since_checkpoint",
            "data_wait",
            "checkpoint",
            "recovery",
            "lost",
            "selecting",
        )
        told = random.choice([names, names, names[:5], names[5:]])
        parts = [random.randint(0, most) if name in told else 0 for name in names]
        metered = dict(zip(names, parts, strict=True))
    stage, attempt = random.choice(STAGES), random.choice([0, 0, 1, 2, 117])
    has_meter, outcome = stage != "train" or random.random() < 0.8, random.choice(OUTCOMES)
    resources = {name: random.choice(QUANTITIES) for name in random.sample(RESOURCES, random.randint(0, 4))}
    product, capacity_type = random.choice(PRODUCTS), random.choice(CAPACITY_TYPES)
    estimated = random.random() < 0.1
    record = UsageRecord(
        uid=uid,
        stage=stage,
        attempt=attempt,
        index=random.randint(0, 3),
        resources=resources,
        product=product,
        capacity_type=capacity_type,
        held_from=moment(begin).astimezone(zone),
        held_until=moment(begin - 5 * 10**6 if set_back else begin + lasting).astimezone(
            random.choice([zone, zone, *ZONES])
        ),
        end_estimated=estimated,
        outcome=outcome,
        has_meter=has_meter,
        metered=MeteredMilliseconds(**metered) if metered is not None else None,
    )
    quantities = {name: number(text) for name, text in resources.items()}
    holding = Holding(
        stage=stage,
        attempt=attempt,
        spans=(((begin, begin if set_back else begin + lasting), quantities),),
        product=product,
        capacity_type=capacity_type,
        outcome=outcome,
        kind="Variant" if stage != "train" else "Recipe" if has_meter else "Command",
        meter=Meter(**{name: part * 1000 for name, part in metered.items()}) if metered is not None else None,
        estimated=estimated or set_back,
    )
    return Written(record, holding)
