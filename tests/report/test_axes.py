"""Axes hold their values between round ends."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.report.axes import axis_over, round_step

VALUES = st.floats(-1e12, 1e12) | st.floats(-1e200, 1e200)


@given(st.lists(VALUES, min_size=1, max_size=20), st.booleans())
def test_every_value_lies_between_the_ends_which_are_ticks(values: list[float], from_zero: bool) -> None:
    axis = axis_over(values, from_zero=from_zero)
    assert axis.low < axis.high
    for value in values:
        assert -1e-6 <= axis.at(value) <= 1 + 1e-6
    assert (axis.ticks[0], axis.ticks[-1]) == (axis.low, axis.high)
    assert list(axis.ticks) == sorted(axis.ticks)
    assert 2 <= len(axis.ticks) <= 13
    if from_zero:
        assert axis.low <= 0 <= axis.high
    assert len(axis.labels) == len(axis.ticks)


@given(st.floats(1e-9, 1e9))
def test_a_step_is_round_and_no_smaller_than_asked_for(least: float) -> None:
    step = round_step(least)
    assert least * (1 - 1e-9) <= step <= least * 2.6
    digit = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(digit - known) for known in (1, 2, 2.5, 5, 10)) < 1e-6


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 400], ["0", "100", "200", "300", "400"]),
        ([2.05, 4.9], ["2", "3", "4", "5"]),
        ([1e-3, 0], ["0.00000", "0.00025", "0.00050", "0.00075", "0.00100"]),
        ([], ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ([5.0], ["4.50", "4.75", "5.00", "5.25", "5.50"]),
        ([math.nan, math.inf, 0, 8], ["0", "2", "4", "6", "8"]),
    ],
)
def test_labels_have_as_many_digits_as_their_distance_needs(values: list[float], labels: list[str]) -> None:
    assert axis_over(values).labels == labels
