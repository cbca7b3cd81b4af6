"""The samples of the next step, prepared on a thread while the device works on this one.

What is prepared depends on its argument alone, so the thread changes when it is made and nothing else.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Argument = TypeVar("Argument")
Prepared = TypeVar("Prepared")


@contextlib.contextmanager
def prepared_ahead(
    prepare: Callable[[Argument], Prepared], arguments: Iterable[Argument]
) -> Iterator[Iterator[Prepared]]:
    """An iterator over `prepare(argument)` for each argument, in order: the next one is made while one is in use.

    At most two results are in memory: the one last given out, and the next. What `prepare` raises is raised where its
    result is asked for, after all results before it. On leaving, however that happens, nothing new is begun and the
    thread has ended; to that end leaving waits for what is being prepared, one call of `prepare` at most.
    """
    remaining = iter(arguments)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:

        def begin_next() -> list[Future[Prepared]]:
            return [thread.submit(prepare, argument) for argument in islice(remaining, 1)]

        def in_order(pending: list[Future[Prepared]]) -> Iterator[Prepared]:
            while pending:
                result = pending.pop().result()
                pending = begin_next()
                yield result

        yield in_order(begin_next())  # the first is begun at once: there may be something else to do before it is used
