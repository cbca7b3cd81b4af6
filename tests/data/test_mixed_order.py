"""Samples drawn by weight: exact counts wherever one looks, and only (seed, position) matters."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costopt.schema.mixture import MixtureData
from costopt_trainer.data.orders.mixed import Mixed, weights_over

WEIGHTS = st.lists(st.integers(0, 50), min_size=2, max_size=16).filter(any)
FEW = st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any)

BRIEFLY = settings(max_examples=30)


def mixture(*weights: int, ends: list[int] | None = None, stages: dict[int, list[int]] | None = None) -> MixtureData:
    names = [f"s{number}" for number in range(len(weights))]
    sources = [
        {"name": name, "weight": weight, "text": {"path": name}} | ({"endWeight": ends[place]} if ends else {})
        for place, (name, weight) in enumerate(zip(names, weights, strict=True))
    ]
    later = [
        {"fromPercent": percent, "weights": dict(zip(names, own, strict=True))}
        for percent, own in (stages or {}).items()
    ]
    return MixtureData.model_validate({"sources": sources} | ({"stages": later} if later else {}))


def mixed(of: MixtureData, samples: int = 1000, size: int = 7) -> Mixed:
    names = tuple(source.name for source in of.sources)
    return Mixed(names, tuple(size + place for place in range(len(names))), weights_over(of, samples))


def plan(of: MixtureData, samples: int) -> np.ndarray[Any, Any]:
    """Of each source how many samples the first n should have, (n + 1, S), added up sample by sample."""
    pieces = weights_over(of, samples)
    shares = np.array([[weight / sum(piece.each_S) for weight in piece.each_S] for piece in pieces])
    holding = np.searchsorted([piece.start for piece in pieces], np.arange(samples), side="right") - 1
    return np.vstack([np.zeros(len(of.sources)), np.cumsum(shares[holding], axis=0)])


def far(of: MixtureData, samples: int) -> float:
    """How many samples any source is away from its plan at most, wherever one looks."""
    sources, _ = mixed(of, samples).drawn(position=0, count=samples)
    counts = np.cumsum(sources[:, np.newaxis] == np.arange(len(of.sources)), axis=0)
    return float(np.abs(counts - plan(of, samples)[1:]).max())


@BRIEFLY
@given(WEIGHTS)
def test_every_source_is_near_its_share_at_any_moment(weights: list[int]) -> None:
    assert far(mixture(*weights), 600) <= math.ceil(math.log2(len(weights))) / 2 + 1e-9


@BRIEFLY
@given(FEW, st.permutations(range(4)))
def test_so_it_is_while_weights_change_linearly(weights: list[int], places: list[int]) -> None:
    ends = [weights[place] for place in places]
    assert far(mixture(*weights, ends=ends), 600) <= 1.5 + 1e-5


@BRIEFLY
@given(FEW, st.lists(st.permutations(range(4)), min_size=3, max_size=3))
def test_so_it_is_over_stages(weights: list[int], others: list[list[int]]) -> None:
    stages = {20 + 30 * number: [weights[place] for place in places] for number, places in enumerate(others)}
    assert far(mixture(*weights, stages=stages), 600) <= 2.5 + 1e-5


@BRIEFLY
@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_two_sources_are_never_further_than_half_a_sample(one: int, other: int, later: int, last: int) -> None:
    assert far(mixture(one, other, ends=[later, last]), 600) <= 0.5 + 1e-5


@BRIEFLY
@given(st.integers(0, 2**31 - 1), st.integers(0, 1100), st.lists(st.integers(0, 40), max_size=6))
def test_any_slicing_gives_the_same_samples_and_epochs(seed: int, position: int, counts: list[int]) -> None:
    order = mixed(mixture(3, 0, 5, ends=[1, 4, 0]))
    whole = order(seed=seed, position=position, count=sum(counts)).tolist()
    epochs = order.epochs(position=position, count=sum(counts)).tolist()
    parts: list[int] = []
    of_parts: list[int] = []
    for count in counts:
        at = position + len(parts)
        parts += order(seed=seed, position=at, count=count).tolist()
        of_parts += order.epochs(position=at, count=count).tolist()
    assert (parts, of_parts) == (whole, epochs)


def test_each_source_has_epochs_of_its_own_each_in_another_order() -> None:
    order = mixed(mixture(3, 1))
    numbers = order(seed=5, position=0, count=400)
    epochs = order.epochs(position=0, count=400)
    small, large = numbers[numbers < 7], numbers[numbers >= 7]
    assert (len(small), len(large)) == (300, 100)
    orders = [tuple(small[start : start + 7]) for start in range(0, 294, 7)]
    assert all(sorted(each) == list(range(7)) for each in orders)
    assert len(set(orders)) > 40
    assert all(sorted(large[start : start + 8]) == list(range(7, 15)) for start in range(0, 96, 8))
    assert epochs[numbers < 7].tolist() == [turn // 7 for turn in range(300)]
    assert epochs[numbers >= 7].tolist() == [turn // 8 for turn in range(100)]


def test_sources_of_one_size_come_in_other_orders() -> None:
    of = mixture(1, 1)
    order = Mixed(("a", "b"), (50, 50), weights_over(of, 100))
    numbers = order(seed=0, position=0, count=100)
    assert numbers[numbers < 50].tolist() != (numbers[numbers >= 50] - 50).tolist()


@settings(max_examples=10)
@given(WEIGHTS, st.integers(0, 10**15))
def test_counts_are_those_of_what_was_drawn_however_far(weights: list[int], position: int) -> None:
    order = mixed(mixture(*weights, ends=weights[::-1]), samples=10**12)
    sources, turns = order.drawn(position=position, count=40)
    before, after = order.counts(position), order.counts(position + 40)
    assert sum(before) == position
    for source in range(len(weights)):
        mine = turns[sources == source].tolist()
        assert mine == list(range(before[source], after[source]))


def test_a_weight_falls_from_its_first_to_its_last() -> None:
    order = mixed(mixture(3, 1, ends=[1, 3]), samples=4000)
    shares = [np.mean(order.drawn(position=at, count=400)[0] == 0) for at in range(0, 4000, 400)]
    assert shares == pytest.approx([0.75 - 0.05 * (step + 0.5) for step in range(10)], abs=0.01)
    assert np.mean(order.drawn(position=5000, count=400)[0] == 0) == pytest.approx(0.25, abs=0.01)


def test_a_stage_begins_where_it_says() -> None:
    sources, _ = mixed(mixture(1, 0, stages={50: [0, 1], 75: [1, 1]}), samples=200).drawn(position=0, count=200)
    assert set(sources[:100]) == {0}
    assert set(sources[100:150]) == {1}
    assert np.bincount(sources[150:]).tolist() == [25, 25]


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    # Were these to change, a resumed run would see other samples than the run it continues.
    order = Mixed(("a", "b", "c"), (1000, 10, 10**9), weights_over(mixture(3, 1, 2, ends=[1, 1, 5]), 10**6))
    assert order(seed=7, position=123456, count=6).tolist() == [445339579, 1001, 500, 405079349, 845, 574404478]
