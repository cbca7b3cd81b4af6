"""Decimals that are never rounded, and hours that are rounded once."""

from decimal import Decimal, Inexact

import pytest

from costopt.accounting.exact import hours, multiply, total
from costopt.schema.base import plain


def test_sums_and_products_keep_every_digit() -> None:
    assert total([Decimal("1e30"), Decimal("1e-30"), Decimal("-1e30")]) == Decimal("1e-30")
    assert multiply(Decimal("1.0000000000000000000001"), Decimal(10**20 + 1)) == Decimal(
        "100000000000000000001.0100000000000000000001"
    )


def test_what_would_lose_a_digit_is_refused() -> None:
    with pytest.raises(Inexact):
        total([Decimal("1e300"), Decimal("1e-300")])


HOURS = [
    ("an hour of one unit", Decimal(3_600_000_000), 1, "1.000000000"),
    ("a microsecond is less than half of the last digit", Decimal(1), 1, "0E-9"),
    ("half of the last digit rounds to the even neighbour below", Decimal("1.8"), 1, "0E-9"),
    ("half of the last digit rounds to the even neighbour above", Decimal("5.4"), 1, "2E-9"),
    ("a hair more than half rounds up", Decimal("1.80000000000000000000000000000000000001"), 1, "1E-9"),
    ("bytes are counted in GiB", Decimal(3_600_000_000) * 2**29, 2**30, "0.500000000"),
]


@pytest.mark.parametrize(
    ("held", "base_per_unit", "shown"), [case[1:] for case in HOURS], ids=[case[0] for case in HOURS]
)
def test_hours_are_rounded_once_to_nine_decimals(held: Decimal, base_per_unit: int, shown: str) -> None:
    counted = hours(held, base_per_unit=base_per_unit)
    assert counted == Decimal(shown)
    assert counted.as_tuple().exponent == -9


NUMBERS = [
    ("12.500", "12.5"),
    ("100", "100"),
    ("0.000", "0"),
    ("1E+3", "1000"),
    ("1E-9", "0.000000001"),
    ("-0.50", "-0.5"),
]


@pytest.mark.parametrize(("number", "text"), NUMBERS)
def test_numbers_are_written_without_exponents_and_trailing_zeros(number: str, text: str) -> None:
    assert plain(Decimal(number)) == text
