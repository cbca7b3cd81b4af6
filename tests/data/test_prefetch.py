"""Samples prepared on a thread: the same ones, in order, one ahead of each; and threads end with whoever uses them."""

import contextlib
import threading

import pytest

from costopt_trainer.data.prefetch import prepared_ahead

PATIENCE = 240


def prefetch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_their_arguments(workers: int) -> None:
    with prepared_ahead(lambda number: number * number, range(50), workers=workers) as results:
        assert list(results) == [number * number for number in range(50)]


def test_workers_prepare_at_the_same_time_and_a_later_result_waits_for_an_earlier_one() -> None:
    begun = [threading.Event() for _ in range(3)]

    def prepare(number: int) -> int:
        begun[number].set()
        if number == 0:  # ends only once all others have begun beside it
            assert all(event.wait(PATIENCE) for event in begun)
        return number

    with prepared_ahead(prepare, range(3), workers=3) as results:
        assert list(results) == [0, 1, 2]


def test_nothing_to_prepare_is_nothing_and_starts_no_thread() -> None:
    with prepared_ahead(lambda number: number, range(0)) as results:
        assert list(results) == []
        assert prefetch_threads() == []


def test_the_next_result_is_made_on_a_thread_while_the_one_before_is_in_use() -> None:
    made = {number: threading.Event() for number in range(4)}
    threads = set()

    def prepare(number: int) -> int:
        threads.add(threading.get_ident())
        made[number].set()
        return number

    with prepared_ahead(prepare, range(4)) as results:
        assert made[0].wait(PATIENCE), "the first is made before it is asked for"
        for number in results:
            if number < 3:
                assert made[number + 1].wait(PATIENCE)
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("workers", [1, 4])
def test_no_more_than_one_is_made_ahead_by_each_worker(workers: int) -> None:
    begun = []

    def prepare(number: int) -> int:
        begun.append(number)
        return number

    with prepared_ahead(prepare, range(100), workers=workers) as results:
        for number in results:
            assert len(begun) <= number + 1 + workers


@pytest.mark.parametrize("error", [OSError("the disk is gone"), SystemExit(143), StopIteration()], ids=repr)
def test_an_error_is_raised_where_its_result_is_asked_for_and_not_before(error: BaseException) -> None:
    def prepare(number: int) -> int:
        if number == 2:
            raise error
        return number

    expected = RuntimeError if isinstance(error, StopIteration) else type(error)  # a plain end would hide it
    with prepared_ahead(prepare, range(9)) as results:
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(expected):
            next(results)
    assert prefetch_threads() == []


def test_the_thread_has_ended_when_its_user_leaves_at_any_place() -> None:
    begun = []

    def prepare(number: int) -> int:
        begun.append(number)
        return number

    with prepared_ahead(prepare, range(10**9)):
        pass
    assert prefetch_threads() == []
    with contextlib.suppress(ValueError), prepared_ahead(prepare, range(10**9)) as results:
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        raise ValueError
    assert prefetch_threads() == []
    # What was to be next may have been begun by then, or not: nothing is begun after the user has left.
    first, second = [[], [0]], [[0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert begun in [one + other for one in first for other in second]
