"""Prepares the samples of the next steps on threads while the device works on this one.

Samples depend only on the argument, so threads change when they are made and nothing else. Threads and not processes:
they end with their process and not before, so that a signal to all of it does not end them while the training saves.
"""

import concurrent.futures
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

LOOK_EVERY_SECONDS = 0.25
"""While samples are waited for, it is looked this often whether nobody wants them any more."""

LAST_READ_SECONDS = 2.0
"""How long a training that was told to end waits for reads that go on: its checkpoint is saved by then."""

Argument = TypeVar("Argument")
Prepared = TypeVar("Prepared")


@contextlib.contextmanager
def prepared_ahead(
    prepare: Callable[[Argument], Prepared],
    arguments: Iterable[Argument],
    *,
    workers: int = 1,
    told_to_end: Callable[[], bool] = lambda: False,
) -> Iterator[Iterator[Prepared | None]]:
    """An iterator over `prepare(argument)` for each argument, in order: the next ones are made while one is in use.

    Each of the `workers` is at most one ahead, so at most `workers` + 1 results are in memory, the last one yielded
    among them. What `prepare` raises is raised when its result is requested, after all earlier results. On leaving,
    however that happens, nothing new is started and the threads have ended; for this, leaving waits for calls of
    `prepare` that run.

    A result that is not there yet when its user is `told_to_end` is None, and leaving then waits LAST_READ_SECONDS at
    most: storage that hangs must not take the time in which a training saves what it has.
    """
    remaining = iter(arguments)
    threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="prefetch")
    pending: deque[Future[Prepared]] = deque()

    def begin(count: int) -> None:
        pending.extend(threads.submit(prepare, argument) for argument in islice(remaining, count))

    def in_order() -> Iterator[Prepared | None]:
        while pending:
            while not concurrent.futures.wait([pending[0]], LOOK_EVERY_SECONDS).done:
                if told_to_end():
                    yield None
            result = pending.popleft().result()
            begin(1)
            yield result

    try:
        begin(workers)  # the first start at once: their user may have other work first
        yield in_order()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        begun = [result for result in pending if not result.cancelled()]
        if not concurrent.futures.wait(begun, LAST_READ_SECONDS if told_to_end() else None).not_done:
            threads.shutdown()
