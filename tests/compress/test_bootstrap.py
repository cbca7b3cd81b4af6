"""An interval around the difference of two models tells how sure it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costopt_trainer.compress.bootstrap import MOST_UNITS, Numbers, bootstrap

LOSSES = st.lists(st.floats(0, 10), min_size=2, max_size=40)


def sums(values: Numbers, targets: float = 1.0) -> Numbers:
    return np.stack([values, np.full(len(values), targets)], axis=1)


def normal(count: int, mean: float = 0.0) -> Numbers:
    return mean + np.random.default_rng(1).standard_normal(count)


def test_it_is_as_wide_as_theory_has_it_for_a_mean() -> None:
    differences = normal(400, mean=0.3)
    found = bootstrap(sums(np.zeros(400)), sums(differences))
    assert found.change == pytest.approx(differences.mean())
    wide = 2 * 1.96 * differences.std() / 400**0.5
    assert found.high - found.low == pytest.approx(wide, rel=0.1)
    assert found.low < found.change < found.high


def test_what_both_models_find_hard_does_not_widen_it() -> None:
    hard = normal(200, mean=50) * 100
    found = bootstrap(sums(hard), sums(hard + 0.5))
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


@settings(max_examples=25, deadline=None)
@given(LOSSES, st.floats(-5, 5))
def test_a_model_that_is_worse_by_as_much_everywhere_is_so_in_every_draw(losses: list[float], more: float) -> None:
    first = np.array(losses)
    found = bootstrap(sums(first, targets=2.0), sums(first + more, targets=2.0))
    assert [found.change, found.low, found.high] == [pytest.approx(more / 2, abs=1e-9)] * 3


@settings(max_examples=25, deadline=None)
@given(LOSSES, st.integers(0, 9))
def test_the_same_samples_give_the_same_interval(losses: list[float], seed: int) -> None:
    first = np.array(losses)
    one, other = (bootstrap(sums(first), sums(first**2), seed=seed) for _ in range(2))
    assert one == other
    assert one.low <= one.high


def test_a_sample_of_more_tokens_weighs_more() -> None:
    first, second = np.array([[0.0, 1.0], [0.0, 9.0]]), np.array([[1.0, 1.0], [0.0, 9.0]])
    found = bootstrap(first, second)
    assert found.change == pytest.approx(0.1)
    assert (found.low, found.high) == (0.0, 1.0), "of two samples a draw may have one twice"


def test_of_very_many_samples_neighbours_are_drawn_together() -> None:
    differences = normal(3 * MOST_UNITS + 1, mean=0.1)
    found = bootstrap(sums(np.zeros(len(differences))), sums(differences))
    assert found.units <= MOST_UNITS
    assert found.change == pytest.approx(differences.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 / len(differences) ** 0.5, rel=0.15)
