"""Phases read back from the lines of a log: what a replica is at while no step ends."""

from typing import get_args

import pytest

from costopt.schema.replica import PHASE_WORDS, Phase, PhaseName, phase_in_log

STEP = '{"step":3,"totalSteps":9}'
TOKENIZING = Phase(phase="Tokenizing", percent=40)

LOGS: list[tuple[str, list[str], Phase | None]] = [
    ("a phase among other lines", ["one", '{"phase":"Tokenizing","percent":40}', "two"], TOKENIZING),
    ("the newest one", ['{"phase":"Importing"}', '{"phase":"Tokenizing","percent":40}'], TOKENIZING),
    ("one behind a cluster's time", ['2026-11-20T09:00:00.1Z {"phase":"Importing"}'], Phase(phase="Importing")),
    ("none once steps are reported", ['{"phase":"Tokenizing","percent":40}', STEP], None),
    ("one that came after a step", [STEP, '{"phase":"Evaluating"}'], Phase(phase="Evaluating")),
    ("none of another rank", ['[rank 1] {"phase":"Importing"}'], None),
    ("none with a name that is not ours", ['{"phase":"\\u001b[31m"}'], None),
    ("none that is more than done", ['{"phase":"Importing","percent":101}'], None),
    ("none in half a line", ['{"phase":"Impor'], None),
]


@pytest.mark.parametrize(("lines", "found"), [row[1:] for row in LOGS], ids=[row[0] for row in LOGS])
def test_a_log_shows(lines: list[str], found: Phase | None) -> None:
    assert phase_in_log(lines) == found


def test_what_was_known_stays_while_a_log_tells_nothing_new() -> None:
    assert phase_in_log(["noise"], TOKENIZING) == TOKENIZING
    assert phase_in_log([STEP], TOKENIZING) is None


def test_every_phase_has_words() -> None:
    assert set(PHASE_WORDS) == set(get_args(PhaseName))
    assert TOKENIZING.words == "tokenizing 40 %"
    assert Phase(phase="Verifying").words == "verifying what was saved"
