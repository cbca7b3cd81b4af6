"""The ledger: each replica once, whatever is repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.accounting import histories, record
from costopt.accounting.ledger import Ledger
from costopt.schema.usage import UsageRecord


def ledger_of(records: list[UsageRecord]) -> Ledger:
    ledger = Ledger()
    for each in records:
        ledger = ledger.add(each)
    return ledger


@given(histories(), st.integers(0, 7))
def test_adding_a_record_twice_changes_nothing(records: list[UsageRecord], again: int) -> None:
    ledger = ledger_of(records)
    assert ledger.records == tuple(records)
    if again < len(records):
        assert ledger.add(records[again]) is ledger


@given(histories())
def test_a_ledger_survives_being_written_and_read(records: list[UsageRecord]) -> None:
    ledger = ledger_of(records)
    assert Ledger.from_lines(ledger.to_lines().splitlines()) == ledger
    assert Ledger.from_lines([*ledger.to_lines().splitlines(keepends=True), "\n"]) == ledger


def test_a_different_record_of_a_known_replica_is_refused() -> None:
    ledger = ledger_of([record(seconds=1)])
    with pytest.raises(ValueError, match="usage of r0 is already recorded with other figures"):
        ledger.add(record(seconds=2))


def test_a_replica_that_still_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="only after its end"):
        Ledger().add(record(outcome="Running"))


def test_a_line_that_is_no_record_is_named() -> None:
    lines = ledger_of([record("a"), record("b")]).to_lines().splitlines()
    with pytest.raises(ValueError, match="line 2 of the ledger must be a usage record"):
        Ledger.from_lines([lines[0], lines[1][:40]])


def test_a_line_that_contradicts_an_earlier_one_is_named() -> None:
    lines = [record(seconds=1).model_dump_json(), record(seconds=2).model_dump_json()]
    with pytest.raises(ValueError, match="line 2 of the ledger: usage of r0 is already recorded"):
        Ledger.from_lines(lines)
