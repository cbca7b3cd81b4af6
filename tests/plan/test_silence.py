"""Silence as looks show it: whatever fails, and whatever the clocks say, nobody who speaks is taken for silent."""

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.plan.silence import Silence, look_every

TIMEOUT = 10.0
EVERY = look_every(timedelta(seconds=TIMEOUT)).total_seconds()


@dataclass(frozen=True)
class Look:
    """One look: how long after the one before it is asked for, how long the answer takes, and whether one comes."""

    after: float
    took: float
    succeeds: bool


def heard(silence: Silence, mark: str, *, asked: float, answered: float, longest: float = 2 * EVERY) -> Silence:
    """The same in seconds."""
    asked_at, answered_at = timedelta(seconds=asked), timedelta(seconds=answered)
    return silence.heard(mark, asked=asked_at, answered=answered_at, longest=timedelta(seconds=longest))


def seconds_of(silence: Silence) -> float:
    """The known silence; 0 when none is known."""
    return silence.length.total_seconds() if silence.length is not None else 0.0


def mark_at(moment: float, lines: list[float], clock_offset: float) -> str:
    """The log as it is at a moment: its last line, with the time that its node's clock gave it."""
    said = [line for line in lines if line <= moment]
    return f"{len(said)} {said[-1] + clock_offset:.3f}" if said else "empty"


looks = st.lists(
    st.builds(
        Look,
        after=st.one_of(st.just(EVERY), st.floats(0.1, 100)),  # late, should the observer be busy, or be away
        took=st.floats(0, 5),
        succeeds=st.booleans(),
    ),
    max_size=60,
)


@given(
    looks=looks,
    gaps=st.lists(st.floats(0.1, TIMEOUT - 0.1), min_size=1, max_size=20),
    offset=st.sampled_from([0, 5, -5, 3600, -3600]),
    seen=st.floats(0, 1),
)
def test_one_that_speaks_more_often_than_the_timeout_is_never_silent_for_so_long(
    looks: list[Look], gaps: list[float], offset: float, seen: float
) -> None:
    horizon = sum(look.after + look.took for look in looks) + 1
    lines = [0.0]
    while lines[-1] < horizon:
        lines.append(lines[-1] + gaps[len(lines) % len(gaps)])
    silence, now = Silence(), 0.0
    for look in looks:
        asked, answered = now + look.after, now + look.after + look.took
        if look.succeeds:
            mark = mark_at(asked + seen * look.took, lines, offset)
            silence = heard(silence, mark, asked=asked, answered=answered)
        else:
            silence = silence.missed()
        assert seconds_of(silence) < TIMEOUT
        now = answered


@given(
    failed_before=st.lists(st.booleans(), max_size=10),
    took=st.floats(0, 1),
    last_line=st.floats(0, TIMEOUT - 1),
    offset=st.sampled_from([0, 5, -3600]),
)
def test_one_that_is_silent_while_it_can_be_heard_is_found_a_look_after_the_timeout(
    failed_before: list[bool], took: float, last_line: float, offset: float
) -> None:
    lines, silence, now = [last_line], Silence(), 0.0
    shown: float | None = None
    for number in range(60):
        mark = mark_at(now, lines, offset)
        failed = number < len(failed_before) and failed_before[number]
        if failed:
            silence, shown = silence.missed(), None
        else:
            if mark != silence.mark or shown is None:
                shown = now + took
            silence = heard(silence, mark, asked=now, answered=now + took)
        if seconds_of(silence) >= TIMEOUT:
            break
        assert shown is None or now < shown + TIMEOUT, "a look after the timeout has not shown it"
        now += EVERY
    assert seconds_of(silence) >= TIMEOUT
    assert now >= last_line + TIMEOUT


@given(looks=looks)
def test_a_silence_is_only_as_long_as_the_spans_between_looks_that_both_succeeded(looks: list[Look]) -> None:
    silence, now, before, spans = Silence(), 0.0, None, 0.0
    for look in looks:
        asked, answered = now + look.after, now + look.after + look.took
        if look.succeeds:
            silence = heard(silence, "the same", asked=asked, answered=answered, longest=1000)
            spans += asked - before if before is not None else 0.0
            before = answered if before is None else asked
        else:
            silence, before = silence.missed(), None
            assert silence.length is None
        assert silence.known.total_seconds() == pytest.approx(spans, abs=1e-4)
        now = answered


def test_an_observer_that_has_just_begun_knows_of_no_silence() -> None:
    assert Silence().length is None
    first = heard(Silence(), "a line of long ago", asked=100, answered=101, longest=4)
    assert first.length == timedelta(0)


def test_an_observer_that_was_away_counts_no_more_than_a_late_look() -> None:
    silence = heard(Silence(), "a", asked=0, answered=0, longest=4)
    assert heard(silence, "a", asked=3600, answered=3600, longest=4).length == timedelta(seconds=4)


@pytest.mark.parametrize(("timeout", "every"), [(10, 2), (25, 2.5), (60, 6), (300, 30), (600, 30), (604800, 30)])
def test_how_often_is_looked_follows_the_timeout(timeout: int, every: float) -> None:
    assert look_every(timedelta(seconds=timeout)) == timedelta(seconds=every)


def test_looks_get_no_more_frequent_as_timeouts_grow() -> None:
    every = [look_every(timedelta(seconds=timeout)) for timeout in range(10, 1000)]
    assert all(one <= other for one, other in pairwise(every))
