"""The page as a browser shows it: in a narrow and a wide window, light and dark."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders.browser import Tab, chromium
from builders.report import ATTACK, LATER, points, spec, status
from costopt.report.facts import facts_of
from costopt.report.page import page
from costopt.schema.status import Failure

MEASURE = """
(() => {
  const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const shown = (e) => ({text: e.textContent, box: box(e), color: getComputedStyle(e).fill});
  return {
    width: innerWidth,
    needed: document.documentElement.scrollWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    ink: [...document.querySelectorAll('h1, p, td, th, dt, dd, figcaption')].map((e) => getComputedStyle(e).color),
    text: document.body.innerText,
    drawings: [...document.querySelectorAll('svg')].map((svg) => ({
      box: box(svg),
      texts: [...svg.querySelectorAll('text')].map(shown),
      plain: getComputedStyle(svg.querySelector('.plot') || svg).fill,
      panels: [...svg.querySelectorAll('.panel')].map((panel) => ({
        plot: box(panel.querySelector('.plot')),
        marks: [...panel.querySelectorAll('.mark')].map(box),
        curves: [...panel.querySelectorAll('polyline')].map(box),
      })),
    })),
  };
})()
"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as tab:
        yield tab


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    failure = Failure(stage="train", attempt=0, reason="ProcessFailed", message=ATTACK)
    path.write_text(page(facts_of("tiny", status(failure=failure), spec(), points(), LATER), LATER))
    return path


def luminance(color: str) -> float:
    """Of a colour as the browser tells it (WCAG 2)."""
    parts = [int(number) / 255 for number in re.findall(r"\d+", color)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) share more than a seam of a pixel and a half."""
    seam = 1.5
    return (
        one[0] < other[2] - seam and other[0] < one[2] - seam and one[1] < other[3] - seam and other[1] < one[3] - seam
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_all_of_the_page_can_be_read_and_every_mark_lies_in_its_axes(
    tab: Tab, file: Path, width: int, scheme: str
) -> None:
    tab.look(file, width=width, scheme=scheme)
    seen: dict[str, Any] = tab.value(MEASURE)

    assert (seen["width"], seen["needed"]) == (width, width), "nothing is wider than the window"
    for told in ("tiny", "Succeeded", "Rejected", "it is 0.5x as fast as the model", "lost to the platform", ATTACK):
        assert told in seen["text"]
    assert (luminance(seen["paper"]) < 0.1) == (scheme == "dark")
    assert min(contrast(ink, seen["paper"]) for ink in seen["ink"]) >= 4.5

    assert len(seen["drawings"]) == 5
    for drawing in seen["drawings"]:
        left, top, right, bottom = drawing["box"]
        assert right - left >= 280
        for text in drawing["texts"]:
            assert text["text"].strip()
            assert left - 1 <= text["box"][0] < text["box"][2] <= right + 1, text
            assert top - 1 <= text["box"][1] < text["box"][3] <= bottom + 1, text
            assert text["box"][3] - text["box"][1] >= 8, "large enough to be read"
            assert contrast(text["color"], seen["paper"]) >= 4.5
            assert contrast(text["color"], drawing["plain"]) >= 4.5 or not drawing["panels"]
        for number, text in enumerate(drawing["texts"]):
            for other in drawing["texts"][number + 1 :]:
                assert not overlap(text["box"], other["box"]), (text, other)
        for panel in drawing["panels"]:
            inner = panel["plot"]
            assert panel["marks"] or panel["curves"]
            slack = 5 if len(panel["marks"]) > 4 else 1  # points of a curve may lie on an axis
            for x1, y1, x2, y2 in panel["marks"]:
                assert inner[0] - slack <= x1 <= x2 <= inner[2] + slack
                assert inner[1] - slack <= y1 <= y2 <= inner[3] + slack
            for x1, y1, x2, y2 in panel["curves"]:
                assert inner[0] - 2 <= x1 <= x2 <= inner[2] + 2
                assert inner[1] - 2 <= y1 <= y2 <= inner[3] + 2
    marks = [len(panel["marks"]) for drawing in seen["drawings"] for panel in drawing["panels"]]
    assert marks[-3:] == [4, 4, 4]


def test_the_browser_asks_for_nothing_but_the_page_and_has_nothing_to_complain_of(tab: Tab, file: Path) -> None:
    tab.requests.clear()
    tab.complaints.clear()
    tab.look(file, width=800, scheme="light")
    assert {url for url in tab.requests if not url.startswith("data:")} == {file.as_uri()}
    assert tab.complaints == []


def test_a_page_that_did_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    worse = tmp_path / "worse.html"
    worse.write_text('<img src="https://example.invalid/x.png"><script>console.error("no")</script>')
    tab.requests.clear()
    tab.complaints.clear()
    tab.look(worse, width=800, scheme="light")
    assert any("example.invalid" in url for url in tab.requests)
    assert tab.complaints
