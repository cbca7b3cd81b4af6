"""How sure a difference between two models on the same samples is: a paired bootstrap.

Difference      a difference and its interval
bootstrap       from sums over each unit (a sample, or a micro-batch)
ratio           the statistic of most metrics: one sum over another

Units are drawn with replacement, as many as there are, the same for both models; the difference of the statistic is
taken anew for each draw, and the interval holds the middle of all these (percentile method: Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13; paired, as in Koehn, EMNLP 2004). The draws come from a fixed seed, so
that the same model gives the same report.

Shape suffixes: U = units, S = sums of a unit, R = draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]
"""Sums over drawn units (R, S) -> the metric (R,)."""

RESAMPLES = 2000
CONFIDENCE = 0.95
MOST_UNITS = 2000
"""More are put together, neighbours with neighbours, which loses nothing where they are in a random order."""
_DRAWS_AT_ONCE = 200


@dataclass(frozen=True)
class Difference:
    """Of a metric, second model minus first."""

    first: float
    second: float
    low: float
    high: float
    units: int
    """How many were drawn from."""

    @property
    def change(self) -> float:
        """The difference over all units."""
        return self.second - self.first


def ratio(sums_RS: Numbers) -> Numbers:
    """The first sum over the second, 0 where that is 0."""
    of_R, by_R = sums_RS[:, 0], sums_RS[:, 1]
    return np.divide(of_R, by_R, out=np.zeros_like(of_R), where=by_R != 0)


def bootstrap(first_US: Numbers, second_US: Numbers, statistic: Statistic = ratio, *, seed: int = 0) -> Difference:
    """The difference of `statistic` between two models, whose sums over each unit are given, in the same order.

    At least one unit. Of a single one the interval has no width, and says nothing.
    """
    first_US, second_US = (_grouped(sums_US) for sums_US in (first_US, second_US))
    units = len(first_US)
    rng = np.random.default_rng(seed)
    changes: list[Numbers] = []
    for start in range(0, RESAMPLES, _DRAWS_AT_ONCE):
        draws = min(_DRAWS_AT_ONCE, RESAMPLES - start)
        times_RU = rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)
        changes.append(statistic(times_RU @ second_US) - statistic(times_RU @ first_US))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(changes), [tail, 1 - tail])
    whole = [float(statistic(sums_US.sum(axis=0, keepdims=True))[0]) for sums_US in (first_US, second_US)]
    return Difference(whole[0], whole[1], float(low), float(high), units)


def _grouped(sums_US: Numbers) -> Numbers:
    size = -(-len(sums_US) // MOST_UNITS)
    return np.add.reduceat(sums_US, np.arange(0, len(sums_US), size), axis=0) if size > 1 else sums_US
