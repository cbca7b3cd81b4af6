"""Decimals without rounding.

Sums and products here are exact or raise: the context has room for far more digits than a bill can need, and traps
the loss of a single one. Only hours cannot be exact (an hour has 3,600,000,000 microseconds, a multiple of 9, so a
microsecond is no finite decimal of it): they are rounded once, as fractions of whole numbers, to nine decimals.
The ninth is 3.6 microseconds of one vCPU.
"""

from collections.abc import Iterable
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from fractions import Fraction
from math import ceil

from costopt.accounting.intervals import MICROSECONDS_PER_HOUR
from costopt.schema.base import plain

_EXACT = Context(prec=400, traps=[Inexact, InvalidOperation, Overflow, DivisionByZero])

HOUR_DECIMALS = 9
PRICE_DECIMALS = 12

_SHOWN_HOUR_DIGIT = Decimal(1).scaleb(-HOUR_DECIMALS)


def multiply(left: Decimal, right: Decimal) -> Decimal:
    """The exact product."""
    return _EXACT.multiply(left, right)


def total(parts: Iterable[Decimal]) -> Decimal:
    """The exact sum; 0 of nothing."""
    result = Decimal(0)
    for part in parts:
        result = _EXACT.add(result, part)
    return result


def hours(unit_microseconds: Decimal, *, base_per_unit: int = 1) -> Decimal:
    """Resource-hours of `unit_microseconds` (base units times microseconds), rounded half-even to nine decimals.

    `base_per_unit` is how many base units the counted unit has: 2**30 bytes in a GiB.
    """
    exact = Fraction(unit_microseconds) / (MICROSECONDS_PER_HOUR * base_per_unit)
    return _EXACT.multiply(Decimal(round(exact * 10**HOUR_DECIMALS)), _SHOWN_HOUR_DIGIT)


def share(quantity: Decimal, part: int, whole: int) -> Decimal:
    """`quantity` times `part` over `whole`, rounded half-even to the nine decimals of hours."""
    exact = Fraction(quantity) * part / whole
    return _EXACT.multiply(Decimal(round(exact * 10**HOUR_DECIMALS)), _SHOWN_HOUR_DIGIT)


def mean_price(weighed: Iterable[tuple[Decimal, int | Decimal]]) -> str:
    """The weighted mean of prices, rounded up to the twelve decimals that a price may have."""
    parts = [(Fraction(price), Fraction(weight)) for price, weight in weighed]
    weights = sum(weight for _, weight in parts)
    if weights:
        mean = sum(price * weight for price, weight in parts) / weights
    else:
        mean = max(price for price, _ in parts)
    return plain(Decimal(ceil(mean * 10**PRICE_DECIMALS)).scaleb(-PRICE_DECIMALS, context=_EXACT))
