"""Which models no other one beats: Pareto's frontier of two figures."""

from collections.abc import Sequence

Point = tuple[float, float]


def frontier(points: Sequence[Point], *, high_is_good: bool) -> list[Point]:
    """The points (cost, quality) that no other one beats, in order of cost: none costs less or as much, and is at least
    as good in quality, and better in one of the two. Less cost is better; of quality the higher value is if
    `high_is_good`, else the lower. Of equal points one is kept."""
    sign = -1.0 if high_is_good else 1.0
    kept: list[Point] = []
    for cost, quality in sorted(set(points), key=lambda point: (point[0], sign * point[1])):
        if not kept or sign * quality < sign * kept[-1][1]:
            kept.append((cost, quality))
    return kept
