"""Which price holds."""

from datetime import date
from typing import Any

import pytest

from builders.accounting import GPU, book, price
from costopt.accounting.price_book import Prices

BOOK = book(
    price("cpu", "0.04"),
    price("cpu", "0.05", effectiveFrom="2026-06-01"),
    price("cpu", "0.01", capacityType="Spot"),
    price(GPU, "2.00", effectiveFrom="2026-06-01"),
    price(GPU, "3.50", product="H100"),
    price(GPU, "3.00", product="H100", effectiveFrom="2026-07-01"),
)

CASES: list[tuple[str, dict[str, Any], str | None]] = [
    ("the latest row that has come applies", {"resource": "cpu", "day": date(2026, 8, 1)}, "0.05"),
    ("a row applies from its own day on", {"resource": "cpu", "day": date(2026, 6, 1)}, "0.05"),
    ("a row to come does not apply yet", {"resource": "cpu", "day": date(2026, 5, 31)}, "0.04"),
    ("before the first row there is no price", {"resource": "cpu", "day": date(2025, 12, 31)}, None),
    ("spot capacity has its own price", {"resource": "cpu", "capacity_type": "Spot"}, "0.01"),
    ("spot capacity without a row has no price", {"resource": GPU, "capacity_type": "Spot"}, None),
    ("reserved capacity without a row has no price", {"resource": "cpu", "capacity_type": "Reserved"}, None),
    ("a device model has its own price", {"resource": GPU, "product": "H100"}, "3"),
    (
        "its own price goes before a later general one",
        {"resource": GPU, "product": "H100", "day": date(2026, 6, 2)},
        "3.5",
    ),
    ("another device model has the general price", {"resource": GPU, "product": "A100"}, "2"),
    ("an unknown device model has the general price", {"resource": GPU, "product": None}, "2"),
    ("a general row prices a resource beside any device", {"resource": "cpu", "product": "H100"}, "0.05"),
    ("a resource the book does not name has no price", {"resource": "memory"}, None),
]


@pytest.mark.parametrize(("wanted", "amount"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_price_lookup(wanted: dict[str, Any], amount: str | None) -> None:
    asked = {"product": None, "capacity_type": "OnDemand", "day": date(2026, 8, 1), **wanted}
    found = Prices(BOOK).on(**asked)
    assert (found and found.list_unit_price) == amount
