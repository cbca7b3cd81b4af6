"""Successive halving: which of many candidates is best, with few trials of most of them. Pure.

rungs     how many are tried in each rung
halve     all rungs, given a way to judge one candidate
pareto    which of several points no other is better than

Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016 (arXiv
1502.07943): all are judged with little, the best third of them with three times as much, and so on. Here the last rung
has one candidate, which is judged with all; if it is not acceptable, the next best of the rung before follows while
trials are left. Nothing is drawn by chance: the same scores give the same choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ETA = 3
"""One of so many goes on to the next rung, where it is given so many times as much."""

Score = tuple[float, ...]
"""The smallest is best. The first number is the distance from what is acceptable, 0 if it is."""


@dataclass(frozen=True)
class Rung:
    """One round of trials."""

    number: int
    """From 1."""
    share: float
    """Of the training, samples and time that the last rung has, above 0 and at most 1."""
    is_last: bool


def rungs(candidates: int, trials: int) -> list[int]:
    """How many candidates are tried in each rung: as many as fit into `trials`, and 1 in the last rung.

    Both are at least 1.
    """
    for first in range(min(candidates, trials), 1, -1):
        sizes = [first]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // ETA))
        if sum(sizes) <= trials:
            return sizes
    return [1]


def halve(
    candidates: int,
    trials: int,
    judge: Callable[[int, Rung], Score | None],
    may_go_on: Callable[[], bool] = lambda: True,
) -> int | None:
    """The candidate, from 0, that is best in the last rung; None if none can be judged there.

    `judge` returns the score of a candidate in a rung, None if it is refused; it is called at most `trials` times.
    Candidates with the same score keep their order: if not all can be tried, the first ones are. Once `may_go_on` says
    no, what is known decides who is in the last rung, which tries one at least.
    """
    sizes = rungs(candidates, trials)
    alive, used = list(range(sizes[0] if len(sizes) > 1 else candidates)), 0
    for number, size in enumerate(sizes[:-1], start=1):
        rung = Rung(number, float(ETA) ** (number - len(sizes)), is_last=False)
        scores: dict[int, Score | None] = {}
        for candidate in alive[:size]:
            if not may_go_on():
                break
            scores[candidate] = judge(candidate, rung)
            used += 1
        judged = {candidate: score for candidate, score in scores.items() if score is not None}
        # Those that nobody came to stand behind those that were judged, in their order.
        left = [candidate for candidate in alive if candidate not in scores]
        alive = sorted(judged, key=lambda candidate: judged[candidate]) + left
    return _last_rung(alive, Rung(len(sizes), 1.0, is_last=True), trials - used, judge, may_go_on)


def _last_rung(
    alive: Sequence[int],
    rung: Rung,
    trials: int,
    judge: Callable[[int, Rung], Score | None],
    may_go_on: Callable[[], bool],
) -> int | None:
    """The first of `alive` that is acceptable; of those that are tried, the one that comes nearest."""
    scores: dict[int, Score] = {}
    for place, candidate in enumerate(alive[:trials]):
        if place and scores and not may_go_on():
            break
        score = judge(candidate, rung)
        if score is not None:
            scores[candidate] = score
            if score[0] <= 0:
                break
    return min(scores, key=lambda candidate: scores[candidate]) if scores else None


def pareto(points: Sequence[Sequence[float]]) -> list[bool]:
    """Of each point whether no other is at least as small in all numbers and smaller in one."""

    def is_better(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [not any(is_better(other, point) for other in points) for point in points]
