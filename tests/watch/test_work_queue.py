"""Keys are looked at once however often they are named, and never by two workers at a time."""

import asyncio
import time

from costopt_operator.watch.work_queue import WorkQueue

A, B = ("team", "a"), ("team", "b")


async def next_of(queue: WorkQueue, seconds: float = 0.05) -> object:
    try:
        return await asyncio.wait_for(queue.get(), seconds)
    except TimeoutError:
        return None


def test_a_key_named_often_is_looked_at_once() -> None:
    async def go() -> None:
        queue = WorkQueue()
        for _ in range(5):
            queue.add(A)
        queue.add(B)
        assert [await next_of(queue), await next_of(queue), await next_of(queue)] == [A, B, None]

    asyncio.run(go())


def test_new_keys_come_before_those_that_are_under_way() -> None:
    async def go() -> None:
        queue = WorkQueue()
        queue.add(A)
        queue.add(B, new=True)
        assert [await next_of(queue), await next_of(queue)] == [B, A]

    asyncio.run(go())


def test_each_key_wakes_one_worker_and_none_is_lost_when_that_one_is_cancelled() -> None:
    async def go() -> None:
        queue = WorkQueue()
        first, second = (asyncio.ensure_future(queue.get()) for _ in range(2))
        await asyncio.sleep(0)
        queue.add(A)
        first.cancel()
        assert await asyncio.wait_for(second, 240) == A
        third = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.wait({third})
        queue.add_after(B, 0.02)
        assert await next_of(queue, 1) == B

    asyncio.run(go())


def test_a_key_named_during_its_look_is_looked_at_once_more_and_not_at_the_same_time() -> None:
    async def go() -> None:
        queue = WorkQueue()
        queue.add(A)
        assert await next_of(queue) == A
        queue.add(A)
        queue.add(A)
        assert await next_of(queue) is None
        queue.done(A)
        assert await next_of(queue, 240) == A
        queue.done(A)
        assert await next_of(queue, 1) is None

    asyncio.run(go())


def test_a_key_rests_after_a_look_and_the_longer_the_longer_that_took_while_others_are_looked_at() -> None:
    async def go() -> None:
        queue = WorkQueue(rest_seconds=0.1)
        for spent, rest in ((0.0, 0.1), (0.04, 0.36)):
            queue.add(A)
            assert await next_of(queue) == A
            queue.done(A, spent)
            began = time.monotonic()
            queue.add(A)
            queue.add(B)
            assert await next_of(queue) == B
            queue.done(B)
            assert await next_of(queue, 240) == A
            assert time.monotonic() - began >= 0.99 * rest
            queue.done(A)
            assert await next_of(queue, 0.2) is None

    asyncio.run(go())


def test_the_earliest_of_several_times_counts() -> None:
    async def go() -> None:
        queue = WorkQueue()
        queue.add_after(A, 30)
        queue.add_after(A, 0.01)
        queue.add_after(A, 60)
        assert await next_of(queue, 240) == A
        queue.done(A)
        assert await next_of(queue) is None

    asyncio.run(go())


def test_pauses_grow_with_failures_in_a_row_and_have_a_limit() -> None:
    async def go() -> None:
        queue = WorkQueue()
        pauses = [queue.failed(A) for _ in range(15)]
        assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
        assert pauses[-1] == 60
        queue.succeeded(A)
        assert queue.failed(A) == 0.1

    asyncio.run(go())
