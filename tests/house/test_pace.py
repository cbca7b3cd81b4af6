"""No test gives a busy machine too little time: what a wait may last is reached only by what would never come."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ENOUGH_SECONDS = 120
FILES = sorted(set(TESTS.rglob("*.py")) - {Path(__file__).resolve()})
WAITS = {"wait", "wait_for", "until", "timeout"}
"""Functions that are given seconds by place, as `process.wait(10)`."""
ENDS = {"communicate", "run", "check_output", "check_call"}
"""Functions that are given `timeout=`."""


def short_waits(source: str) -> Iterator[str]:
    """Calls that wait for something, and for no more than so few seconds that a busy machine needs more."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_wait = name in WAITS or name.startswith("wait_until")
        bounds = [each.value for each in node.keywords if each.arg == "timeout" and (is_wait or name in ENDS)]
        bounds += [each.value for each in node.keywords if each.arg == "seconds" and is_wait]
        bounds += node.args if is_wait else []
        for bound in bounds:
            seconds = bound.value if isinstance(bound, ast.Constant) else None
            # A small number by place is a count, or a pause between two looks.
            least = 10 if bound in node.args else 1
            if type(seconds) in (int, float) and least <= seconds < ENOUGH_SECONDS:  # type: ignore[operator]
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "line",
    [
        "process.wait(30)",
        "process.wait(timeout=5)",
        "process.communicate(timeout=60)",
        "subprocess.run(words, timeout=60)",
        "wait_until(lambda: done, seconds=5)",
        "wait_for(lambda: done, 'done', 60)",
        "asyncio.timeout(10)",
    ],
)
def test_a_short_wait_is_found(line: str) -> None:
    assert list(short_waits(line)) == [f"line 1: {line}"]


@pytest.mark.parametrize("line", ["process.wait(240)", "over.wait(0.01)", "wait_until(done)", "timedelta(seconds=5)"])
def test_pauses_patient_waits_and_other_seconds_are_none(line: str) -> None:
    assert list(short_waits(line)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_test_waits_long_enough_for_a_busy_machine(path: Path) -> None:
    assert list(short_waits(path.read_text())) == []
