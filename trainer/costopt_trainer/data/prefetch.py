"""Prepares the samples of the next step on a thread while the device works on this one.

Samples depend only on the argument, so the thread changes when they are made and nothing else.
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

    At most two results are in memory: the last one yielded, and the next. What `prepare` raises is raised when its
    result is requested, after all earlier results. On leaving, however that happens, nothing new is started and the
    thread has ended; for this, leaving waits for at most one running call of `prepare`.
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

        yield in_order(begin_next())  # the first starts at once: its user may have other work first
