"""What is drawn: every mark inside its axes, no peak lost, no name on another."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.report.charts import LETTER, CauseBar, Mark, Point, cause_bars, loss_curve, scatter, thinned
from costopt.report.dominance import frontier
from costopt.report.svg import WIDTH

NAME = "{http://www.w3.org/2000/svg}"
FIGURES = st.floats(0, 1e6)
POINTS = st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=12)


def panels(drawn: str) -> list[ET.Element]:
    return ET.fromstring(drawn).findall(f"{NAME}g[@class='panel']")


def box_of(panel: ET.Element) -> tuple[float, float, float, float]:
    plot = panel.find(f"{NAME}rect[@class='plot']")
    assert plot is not None
    x, y, width, height = (float(plot.attrib[key]) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def places_in(panel: ET.Element) -> list[tuple[float, float]]:
    """Of all curves and marks."""
    found = []
    for each in panel.iter():
        kind = each.attrib.get("class", "")
        if each.tag == f"{NAME}polyline":
            found += [tuple(map(float, pair.split(","))) for pair in each.attrib["points"].split()]
        elif each.tag == f"{NAME}circle":
            found.append((float(each.attrib["cx"]), float(each.attrib["cy"])))
        elif kind == "mark model":
            found.append((float(each.attrib["x"]) + 4, float(each.attrib["y"]) + 4))
        elif kind == "mark rejected":
            x, y = map(float, re.findall(r"-?[\d.]+", each.attrib["d"])[:2])
            found.append((x + 4, y + 4))
    return found


def assert_all_inside(drawn: str) -> None:
    for text in ET.fromstring(drawn).iter(f"{NAME}text"):
        kind, x, width = text.attrib["class"], float(text.attrib["x"]), LETTER * len(text.text or "")
        ends = {"tick middle": (x - width / 2, x + width / 2), "tick end": (x - width, x)}.get(kind, (x, x))
        assert ends[0] >= -2
        assert ends[1] <= WIDTH + 2, (text.text, ends)
    for panel in panels(drawn):
        left, top, right, bottom = box_of(panel)
        for x, y in places_in(panel):
            assert left - 0.2 <= x <= right + 0.2
            assert top - 0.2 <= y <= bottom + 0.2


@given(POINTS, POINTS, POINTS)
def test_curves_lie_inside_their_axes(losses: list[Point], validation: list[Point], rates: list[Point]) -> None:
    drawn = loss_curve(losses, validation, rates)
    assert len(panels(drawn)) == 2
    assert_all_inside(drawn)


MARKS = st.lists(
    st.builds(
        Mark, st.text(max_size=40), FIGURES, FIGURES, st.sampled_from(["Model", "Accepted", "Rejected"]), st.text()
    ),
    min_size=1,
    max_size=17,
)


@given(MARKS)
def test_marks_lie_inside_their_axes_whatever_they_are_called(marks: list[Mark]) -> None:
    printable = [Mark("".join(filter(str.isprintable, m.name)), m.x, m.quality, m.kind, "") for m in marks]
    drawn = scatter(printable, [], "size", "loss")
    assert_all_inside(drawn)
    kinds = [
        each.attrib["class"]
        for panel in panels(drawn)
        for each in panel.iter()
        if "mark" in each.attrib.get("class", "")
    ]
    assert sorted(kinds) == sorted(f"mark {mark.kind.lower()}" for mark in marks)


def test_names_of_marks_that_lie_close_do_not_lie_on_each_other() -> None:
    marks = [Mark(f"variant-{number}", 1 + number / 100, 2.0, "Accepted", "") for number in range(8)]
    (panel,) = panels(scatter(marks, [], "size", "loss"))
    heights = [
        float(each.attrib["y"]) for each in panel.iter(f"{NAME}text") if (each.text or "").startswith("variant-")
    ]
    assert len(heights) == 8
    assert min(abs(a - b) for n, a in enumerate(heights) for b in heights[n + 1 :]) >= 11.9


@given(st.lists(st.tuples(st.integers(0, 10**6).map(float), FIGURES), min_size=1, max_size=300), st.integers(4, 100))
def test_thinning_keeps_the_ends_and_the_extremes_in_order(points: list[Point], most: int) -> None:
    points = [(float(place), value) for place, (_, value) in enumerate(points)]
    kept = thinned(points, most)
    assert len(kept) <= max(most, 2) + 1
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)
    for extreme in (min, max):
        assert extreme(value for _, value in kept) == extreme(value for _, value in points)


def test_bars_are_as_long_as_their_share_and_stay_in_the_drawing() -> None:
    bars = [
        CauseBar("productive", 10.0, "10", 1.0, "1.0000", is_wasted=False),
        CauseBar("lost progress", 5.0, "5", 0.25, "0.2500", is_wasted=True),
        CauseBar("other", 0.0, "0", None, "unknown", is_wasted=True),
    ]
    root = ET.fromstring(cause_bars(bars, "vCPU-Hours", "USD"))
    lengths = [float(each.attrib["width"]) for each in root.iter(f"{NAME}rect")]
    assert lengths[2] / lengths[0] == pytest.approx(0.5, rel=0.2)
    assert lengths[3] / lengths[1] == pytest.approx(0.25, rel=0.2)
    assert lengths[4] == lengths[5] == 1
    assert all(float(each.attrib["x"]) + float(each.attrib["width"]) <= WIDTH for each in root.iter(f"{NAME}rect"))
    assert [each.attrib["class"] for each in root.iter(f"{NAME}rect")][2:] == ["bar wasted"] * 4
    assert "unknown" in "".join(root.itertext())


def test_text_of_others_is_text_in_a_drawing() -> None:
    drawn = scatter([Mark("<b>&\"'", 1, 1, "Accepted", "</title><script>")], [], "<x>", "y")
    root = ET.fromstring(drawn)
    assert not list(root.iter(f"{NAME}script"))
    assert "<b>&\"'" in "".join(root.itertext())


@pytest.mark.parametrize(
    ("points", "high_is_good", "best"),
    [
        ([(1, 5), (2, 3), (3, 4)], False, [(1, 5), (2, 3)]),
        ([(1, 5), (2, 3), (3, 6)], True, [(1, 5), (3, 6)]),
        ([(1, 5), (1, 4)], False, [(1, 4)]),
        ([(1, 5), (2, 5)], False, [(1, 5)]),
        ([], False, []),
    ],
)
def test_the_frontier_is_what_no_other_one_beats(points: list[Point], high_is_good: bool, best: list[Point]) -> None:
    assert frontier(points, high_is_good=high_is_good) == best


@given(POINTS, st.booleans())
def test_each_point_is_beaten_or_equalled_by_one_of_the_frontier_and_none_of_these_by_another(
    points: list[Point], high_is_good: bool
) -> None:
    sign = -1 if high_is_good else 1
    best = frontier(points, high_is_good=high_is_good)
    for x, y in points:
        assert any(other_x <= x and sign * other_y <= sign * y for other_x, other_y in best)
    for one in best:
        assert not any(x <= one[0] and sign * y <= sign * one[1] and (x, y) != one for x, y in points)
