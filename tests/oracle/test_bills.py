"""Bills of random records are what the oracle says, to the last digit."""

import json
import os
from dataclasses import replace
from random import Random

import pytest

from costopt.accounting.bill import bill_of, make_bill
from costopt.accounting.fold import fold
from costopt.accounting.price_book import pin_prices
from costopt.schema.usage import Usage
from oracle.comparing import differences
from oracle.exact_bill import Book, exact_bill
from oracle.random_records import BEGINNINGS, Written, price_book, random_book, random_record

SEEDS = range(int(os.environ.get("COSTOPT_FUZZ_SEEDS", "100")))
"""More of them are tried by `make fuzz`."""


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bill_of_any_records_is_the_oracles(seed: int) -> None:
    random = Random(seed)
    around = random.choice(BEGINNINGS)
    book = random.choice([None, random_book(random, "own", "USD", around)])
    written = [random_record(random, f"r{number}", around) for number in range(random.randint(0, 12))]
    records = [each.record for each in written]
    found = make_bill(
        random.sample([*records, *records[:3]], k=len(records[:3]) + len(records)), book and price_book(book)
    )
    assert list(differences(exact_bill([each.holding for each in written], book), found)) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_usage_that_was_pinned_and_folded_in_any_order_has_the_oracles_bill(seed: int) -> None:
    random = Random(seed)
    around = random.choice(BEGINNINGS)
    books = [
        None,
        *(random_book(random, name, money, around) for name, money in [("a", "USD"), ("b", "EUR"), ("c", "USD")]),
    ]
    written = [
        _pinned(random, random_record(random, f"r{number}", around), books)
        for number in range(random.choice([0, 3, 10, 80]))
    ]
    usage = Usage()
    for each in random.sample(written, k=len(written)):
        records = [*usage.records, each.record]
        usage = usage.model_copy(update={"records": random.sample(records, k=len(records))})
        if random.random() < 0.2:
            usage = fold(usage, {record.uid for record in records if random.random() < 0.5})
            usage = Usage.model_validate_json(json.dumps(usage.to_plain()))
    book = random.choice(books)
    found = bill_of(usage, (), book and price_book(book))
    assert list(differences(exact_bill([each.holding for each in written], book), found)) == []


def _pinned(random: Random, written: Written, books: list[Book | None]) -> Written:
    """The record with the prices of one of the books, or of none; the currencies are two."""
    book = random.choice(books)
    if book is None:
        return written
    return Written(pin_prices(written.record, price_book(book)), replace(written.holding, book=book, pinned=True))
