"""Ranges and ticks of axes.

Axis        a range, its ticks, and where a value lies along it
axis_over   the axis that values need
is_drawable whether a value can have a place on one
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

LARGEST, _SMALLEST = 1e200, 1e-200
"""What is larger, or differs by less, cannot be told apart in floating point once it is scaled."""


@dataclass(frozen=True)
class Axis:
    """A linear axis."""

    low: float
    high: float
    """Above `low`."""
    ticks: tuple[float, ...]
    """Round values within the range, ascending."""

    def at(self, value: float) -> float:
        """Where `value` lies, from 0 (low) to 1 (high)."""
        return (value - self.low) / (self.high - self.low)

    @property
    def labels(self) -> list[str]:
        """The ticks as text, all with as many decimals as their distance needs."""
        if len(self.ticks) < 2:
            return [f"{tick:g}" for tick in self.ticks]
        step = self.ticks[1] - self.ticks[0]
        largest = max(abs(tick) for tick in self.ticks)
        if largest >= 1e6 or (largest and largest < 1e-3):
            return [f"{tick:.2g}" for tick in self.ticks]
        decimals = next(places for places in range(9) if places == 8 or _is_whole(step * 10**places))
        return [f"{tick:.{decimals}f}" for tick in self.ticks]


def _is_whole(value: float) -> bool:
    return round(value) >= 1 and abs(value - round(value)) < 1e-6 * value


def axis_over(values: Iterable[float], *, about: int = 4, from_zero: bool = False, margin: float = 0.0) -> Axis:
    """An axis that holds all drawable `values`, with about that many ticks; from 0 if `from_zero`. Its ends are
    ticks. `margin`: the share of the range that is left free at its ends, except at 0 if it begins there."""
    finite = [value for value in values if is_drawable(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    if high - low <= max(abs(high) * 1e-9, _SMALLEST):
        spread = abs(high) * 0.1 if abs(high) > _SMALLEST else 1.0
        low, high = (0.0 if from_zero and low == 0 else low - spread), high + spread
    room = margin * (high - low)
    low, high = (low if from_zero and low == 0 else low - room), high + room
    step = round_step((high - low) / max(1, about))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def is_drawable(value: float) -> bool:
    """Whether an axis can hold the value."""
    return math.isfinite(value) and abs(value) <= LARGEST


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 and 10, times a power of ten, that is at least `least`, which is above 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in (1, 2, 2.5, 5, 10, 20) if power * digit >= least * (1 - 1e-9))
