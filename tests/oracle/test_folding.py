"""Usage of years: sums are put together when they are too many, and no hour is lost."""

import json
from collections import defaultdict
from fractions import Fraction
from random import Random

import pytest

from costopt.accounting.bill import bill_of
from costopt.accounting.fold import fold
from costopt.accounting.price_book import pin_prices
from costopt.schema.status import Bill, JobStatus
from costopt.schema.usage import Usage
from oracle.exact_bill import HOUR, UNITS, Holding, number
from oracle.random_records import BEGINNINGS, Written, price_book, random_book, random_record

YEARS = 3
RESTARTS = 1500
"""In all. Each is a record on a day of its own, with up to four resources and five causes: more than 2,000 sums."""


@pytest.mark.parametrize("seed", range(4))
def test_hours_stay_exact_over_years_of_restarts_at_prices_that_change(seed: int) -> None:
    random = Random(seed)
    begin = random.choice(BEGINNINGS)
    usage, written = Usage(), list[Written]()
    for number_of_record in range(RESTARTS):
        around = begin + number_of_record * YEARS * 365 * 86_400 * 10**6 // RESTARTS
        each = random_record(random, f"r{number_of_record}", around)
        written.append(each)
        record = each.record
        if seed % 2:  # half of them lost their price book
            record = pin_prices(record, price_book(random_book(random, "own", "USD", around)))
        usage = usage.model_copy(update={"records": [*usage.records, record]})
        if len(usage.records) == 60:
            usage = fold(usage, {old.uid for old in usage.records[:50]})
            assert len(usage.records) == 10, "recording goes on"
    status = JobStatus.model_validate_json(json.dumps(JobStatus(usage=usage).to_plain()))
    assert status.usage == usage
    assert len(json.dumps(status.to_plain())) < 700_000
    bill = bill_of(usage, (), None)
    assert usage.folded_records + len(usage.records) == RESTARTS
    assert bill.estimated_records == sum(each.holding.estimated for each in written)
    held = _held([each.holding for each in written])
    found = _hours(bill)
    assert found.keys() == held.keys()
    assert all(abs(found[unit] - held[unit]) <= Fraction(len(bill.lines), 2 * 10**9) for unit in held)


def _held(holdings: list[Holding]) -> dict[str, Fraction]:
    """Hours by unit."""
    hours: defaultdict[str, Fraction] = defaultdict(Fraction)
    for holding in holdings:
        for (first, last), quantities in holding.spans:
            for resource, quantity in quantities.items():
                unit, size = UNITS.get(resource, ("Unit-Hours", 1))
                hours[unit] += quantity * (last - first) / HOUR / size
    return dict(hours)


def _hours(bill: Bill) -> dict[str, Fraction]:
    hours: defaultdict[str, Fraction] = defaultdict(Fraction)
    for line in bill.lines:
        hours[line.consumed_unit] += number(line.consumed_quantity)
    return dict(hours)
