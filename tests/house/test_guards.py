"""A guard on the time of a part of a test ends what hangs, and leaves the guard on the whole test as it was."""

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from builders.hostile import within

HOURS = 10_000


class Rang(BaseException):
    """The timer of the whole test has."""


def ring(_number: int, _frame: object) -> None:
    raise Rang


@pytest.fixture(autouse=True)
def timer_of_the_whole_test() -> Iterator[None]:
    """As pytest-timeout sets one."""
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, HOURS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, left, interval)


def test_what_hangs_fails_also_if_it_catches_every_exception() -> None:
    with pytest.raises(pytest.fail.Exception, match="not within"), within(0.01), suppress(Exception):
        signal.pause()


@pytest.mark.parametrize("ends", ["well", "too late"])
def test_the_timer_of_the_whole_test_goes_on_behind_it(ends: str) -> None:
    with suppress(pytest.fail.Exception), within(60 if ends == "well" else 0.01):
        if ends == "too late":
            signal.pause()
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= HOURS
    assert signal.getsignal(signal.SIGALRM) is ring


def test_the_timer_of_the_whole_test_rings_within_it() -> None:
    signal.setitimer(signal.ITIMER_REAL, 1)
    with pytest.raises(Rang), within(60):
        signal.pause()


def test_one_guard_within_another_leaves_the_outer_one() -> None:
    with pytest.raises(pytest.fail.Exception, match="not within 1 s"), within(1):
        empty_guard_then_hang()


def empty_guard_then_hang() -> None:
    with within(60):
        pass
    with within(0.5):
        pass
    signal.pause()
