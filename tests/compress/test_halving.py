"""Successive halving: few trials, none lost that is best, and the same choice for the same figures."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt_trainer.compress.halving import ETA, Rung, Score, halve, pareto, rungs

FIGURES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.1, 0.7]), st.floats(0, 100)), min_size=1, max_size=40, unique=True
)


def searched(scores: list[Score | None], trials: int) -> tuple[int | None, list[tuple[int, Rung]]]:
    asked: list[tuple[int, Rung]] = []

    def judge(candidate: int, rung: Rung) -> Score | None:
        asked.append((candidate, rung))
        return scores[candidate]

    return halve(len(scores), trials, judge), asked


@given(candidates=st.integers(1, 200), trials=st.integers(1, 200))
def test_rungs_fit_into_the_trials_and_end_with_one(candidates: int, trials: int) -> None:
    sizes = rungs(candidates, trials)
    assert sum(sizes) <= trials
    assert sizes[0] <= candidates
    assert sizes[-1] == 1
    assert all(after == -(-before // ETA) for before, after in pairwise(sizes))
    larger = sizes[0] + 1
    if larger <= candidates:  # one more would not fit
        more = [larger]
        while more[-1] > 1:
            more.append(-(-more[-1] // ETA))
        assert sum(more) > trials


@given(scores=FIGURES, trials=st.integers(1, 64))
def test_never_more_trials_than_allowed_and_the_best_of_those_tried_is_not_lost(
    scores: list[Score | None], trials: int
) -> None:
    best, asked = searched(scores, trials)
    assert 1 <= len(asked) <= trials
    tried = {candidate for candidate, _ in asked}
    assert best == min(tried, key=lambda candidate: scores[candidate] or ())
    assert searched(scores, trials) == (best, asked), "nothing is drawn by chance"
    assert asked[-1][1].is_last
    assert [rung.share for _, rung in asked] == sorted(rung.share for _, rung in asked)
    assert len(set(asked)) == len(asked), "no trial is repeated"


@given(scores=FIGURES)
def test_with_trials_for_all_the_best_of_all_is_found(scores: list[Score | None]) -> None:
    assert searched(scores, 64)[0] == min(range(len(scores)), key=lambda candidate: scores[candidate] or ())


@given(scores=st.lists(st.none() | st.tuples(st.just(0.0), st.floats(0, 9)), min_size=1, max_size=20))
def test_what_is_refused_is_never_chosen(scores: list[Score | None]) -> None:
    best, _ = searched(scores, 64)
    assert (best is None) == all(score is None for score in scores)
    assert best is None or scores[best] is not None


def test_where_the_best_is_not_accepted_in_full_the_next_one_follows() -> None:
    asked = []

    def judge(candidate: int, rung: Rung) -> Score:
        asked.append((candidate, rung.number))
        return (0.5, 1.0) if rung.is_last and candidate == 2 else (0.0, [3.0, 2.0, 1.0][candidate])

    assert halve(3, 5, judge) == 1
    assert asked == [(0, 1), (1, 1), (2, 1), (2, 2), (1, 2)]
    asked.clear()
    assert halve(3, 4, judge) == 2, "no trial is left for another"


@pytest.mark.parametrize(("allowed", "chosen"), [(0, 0), (1, 0), (2, 1), (9, 2)])
def test_when_the_time_is_up_the_best_so_far_is_made(allowed: int, chosen: int) -> None:
    asked: list[int] = []

    def judge(candidate: int, _rung: Rung) -> Score:
        asked.append(candidate)
        return 0.0, [3.0, 2.0, 1.0][candidate]

    assert halve(3, 4, judge, lambda: len(asked) < allowed) == chosen
    assert len(asked) == min(allowed, 3) + 1


@given(points=st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12))
def test_the_pareto_set_is_what_no_other_point_beats(points: list[tuple[int, int, int]]) -> None:
    marks = pareto(points)
    kept = [point for point, mark in zip(points, marks, strict=True) if mark]
    assert bool(kept) == bool(points)
    for point, mark in zip(points, marks, strict=True):
        beaten = [other for other in kept if other != point and all(a <= b for a, b in zip(other, point, strict=True))]
        assert mark == (not beaten)
