"""What CONTRIBUTING says of where a change goes: every place that it names is there."""

import re
from pathlib import Path

import pytest

from costopt.cli import COMMANDS
from costopt.schema.kinds import COST_OPT_JOB, KINDS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PLACES = sorted(set(re.findall(r"`((?:costopt|trainer|operator|tests|docs)/[^`*]+)`", TEXT)))


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_named_is_there(place: str) -> None:
    assert (ROOT / place).exists()


def test_tables_that_are_named_are_where_it_says() -> None:
    assert len(PLACES) > 15
    assert "`COMMANDS` in `costopt/cli/__init__.py`" in TEXT
    assert "suspend" in COMMANDS
    assert "`KINDS` in `costopt/schema/kinds.py`" in TEXT
    assert COST_OPT_JOB in KINDS.values()
    assert "`columns` of its kind in `costopt/schema/kinds.py`" in TEXT
    assert COST_OPT_JOB.columns
