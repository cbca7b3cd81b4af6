"""The drawings of a report.

loss_curve    training and validation loss by step, and the learning rate below
cause_bars    time and money by cause, side by side
scatter       models by quality and one other figure; those that are accepted, and what no accepted one beats
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from costopt.report.axes import axis_over
from costopt.report.svg import WIDTH, Panel, drawing, tag

LEFT, RIGHT, TOP = 50, 20, 22
MOST_POINTS = 240
"""Of a curve that is drawn: more would lie on one another."""
ROOM = 0.06
"""Of a scatter's range, free at its ends: a mark is as wide as that."""
LETTER, LINE = 5.4, 12
"""About the width of a letter in a drawing's small text, and the height of its lines."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A model in a scatter."""

    name: str
    x: float
    quality: float
    kind: Literal["Model", "Accepted", "Rejected"]
    told: str
    """Its figures, shown when it is pointed at."""


@dataclass(frozen=True)
class CauseBar:
    """What one cause took."""

    cause: str
    hours: float
    hours_told: str
    cost: float | None
    cost_told: str
    is_wasted: bool


def loss_curve(losses: Sequence[Point], validation: Sequence[Point], rates: Sequence[Point]) -> Markup:
    """Losses by step; `rates` of learning below, on the same axis of steps."""
    steps = axis_over([step for points in (losses, validation, rates) for step, _ in points], about=4, from_zero=True)
    width = WIDTH - LEFT - RIGHT
    upper = Panel(
        LEFT, TOP, width, 130, steps, axis_over([loss for points in (losses, validation) for _, loss in points])
    )
    lower = Panel(
        LEFT, upper.bottom + 26, width, 44, steps, axis_over([rate for _, rate in rates], about=2, from_zero=True)
    )
    shown = thinned(validation)
    curves = [
        _curve(upper, thinned(losses), "curve first"),
        _curve(upper, shown, "curve second"),
        *(tag("circle", class_="mark second", cx=x, cy=y, r=2.5) for x, y in (upper.place(*point) for point in shown)),
        _key(upper, (("first", "training"), ("second", "validation")) if validation else (("first", "training"),)),
    ]
    has_rates = bool(rates)
    parts = [upper.drawn(*curves, x_title=None if has_rates else "step", y_title="loss", x_ticks=not has_rates)]
    if has_rates:
        rate = _curve(lower, thinned(rates), "curve third")
        parts.append(lower.drawn(rate, x_title="step", y_title="learning rate"))
    height = (lower if has_rates else upper).bottom + 34
    last = f", at last {losses[-1][1]:.4g}" if losses else ""
    return drawing(f"Loss by step{last}", height, *parts)


def cause_bars(bars: Sequence[CauseBar], unit: str, currency: str) -> Markup:
    """A row for each cause, with a bar of hours and one of money, whose lengths are shares of the longest."""
    label, gap, row = 84, 14, 20
    width = (WIDTH - label - gap - 6) / 2
    most_hours = max((bar.hours for bar in bars), default=0.0) or 1.0
    most_cost = max((bar.cost or 0.0 for bar in bars), default=0.0) or 1.0
    right = label + width + gap
    parts: list[object] = [
        tag("text", unit, class_="title", x=label, y=12),
        tag("text", currency, class_="title", x=right, y=12),
    ]
    for number, bar in enumerate(bars):
        y = 20 + number * row
        kind = "bar wasted" if bar.is_wasted else "bar"
        parts.append(tag("text", bar.cause, class_="tick end", x=label - 6, y=y + 11))
        for left, share, told in (
            (label, bar.hours / most_hours, bar.hours_told),
            (right, (bar.cost or 0.0) / most_cost, bar.cost_told),
        ):
            room = width - LETTER * len(told) - 6
            length = max(1.0, share * max(8.0, room))
            parts.append(tag("rect", class_=kind, x=left, y=y, width=length, height=14, rx=2))
            parts.append(tag("text", told, class_="tick", x=left + length + 4, y=y + 11))
    return drawing("Time and money by cause", 24 + len(bars) * row, *parts)


def scatter(marks: Sequence[Mark], frontier: Sequence[Point], x_title: str, y_title: str) -> Markup:
    """Models as marks. `frontier`: the points (x, quality) of those that no accepted one beats, in order of x."""
    panel = Panel(
        LEFT,
        TOP,
        WIDTH - LEFT - RIGHT,
        150,
        axis_over([mark.x for mark in marks], from_zero=True, margin=ROOM),
        axis_over([mark.quality for mark in marks], margin=ROOM),
    )
    parts: list[object] = [_curve(panel, frontier, "curve frontier")] if len(frontier) > 1 else []
    places = [panel.place(mark.x, mark.quality) for mark in marks]
    parts += [_shape(mark, *place) for mark, place in zip(marks, places, strict=True)]
    parts += _names(panel, [mark.name for mark in marks], places)
    return drawing(f"{y_title} by {x_title}", panel.bottom + 34, panel.drawn(*parts, x_title=x_title, y_title=y_title))


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` of the points, in their order: of each group of neighbours the lowest and the highest, so that no
    peak is lost, and the first and the last of all."""
    if len(points) <= most:
        return list(points)
    groups = max(1, (most - 2) // 2)
    inner = points[1:-1]
    kept = [points[0]]
    for number in range(groups):
        group = inner[number * len(inner) // groups : (number + 1) * len(inner) // groups]
        if group:
            extremes = {min(range(len(group)), key=lambda place: group[place][1])}
            extremes.add(max(range(len(group)), key=lambda place: group[place][1]))
            kept += [group[place] for place in sorted(extremes)]
    return [*kept, points[-1]]


def _curve(panel: Panel, points: Sequence[Point], kind: str) -> Markup:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (panel.place(*point) for point in points))
    return tag("polyline", class_=kind, points=places) if points else Markup("")


def _key(panel: Panel, names: Sequence[tuple[str, str]]) -> Markup:
    """Names of curves above the panel's right end, each behind a piece of its line."""
    parts: list[object] = []
    x = panel.right
    for kind, name in reversed(names):
        x -= LETTER * len(name) + 22
        parts.append(tag("line", class_=f"curve {kind}", x1=x, x2=x + 12, y1=panel.top - 9, y2=panel.top - 9))
        parts.append(tag("text", name, class_="tick", x=x + 15, y=panel.top - 6))
    return tag("g", *parts)


def _shape(mark: Mark, x: float, y: float) -> Markup:
    told = tag("title", f"{mark.name}: {mark.told}")
    if mark.kind == "Model":
        return tag("rect", told, class_="mark model", x=x - 4, y=y - 4, width=8, height=8)
    if mark.kind == "Accepted":
        return tag("circle", told, class_="mark accepted", cx=x, cy=y, r=4.5)
    cross = f"M{x - 4:.1f},{y - 4:.1f} l8,8 m0,-8 l-8,8"
    return tag("path", told, class_="mark rejected", d=cross)


def _names(panel: Panel, names: Sequence[str], places: Sequence[Point]) -> list[Markup]:
    """Each name beside its mark: on the side where there is room, moved up or down from those before it."""
    taken: list[tuple[float, float, float]] = []
    found = []
    for name, (x, y) in zip(names, places, strict=True):
        shown = name if len(name) <= 18 else f"{name[:17]}…"
        width = LETTER * len(shown)
        to_left = x + 8 + width > panel.right
        left = x - 8 - width if to_left else x + 8
        left = max(panel.left + 1, left)
        level = _free_level(taken, left, width, y, panel)
        taken.append((left, left + width, level))
        kind = "tick end" if to_left and left > panel.left + 1 else "tick"
        found.append(tag("text", shown, class_=kind, x=left + width if kind.endswith("end") else left, y=level + 3))
    return found


def _free_level(
    taken: Sequence[tuple[float, float, float]], left: float, width: float, y: float, panel: Panel
) -> float:
    """The height nearest to `y` at which a name of that width overlaps none that is there; `y` if all do."""
    for distance in range(40):
        for level in (y - distance * 3, y + distance * 3):
            is_inside = panel.top + LINE / 2 <= level <= panel.bottom - LINE / 2
            clear = all(
                abs(level - other) >= LINE or left + width < start or left > stop for start, stop, other in taken
            )
            if is_inside and clear:
                return level
    return y
