"""A model run that takes too long: a kernel cannot be interrupted, so the process ends and says why.

Overdue     `with Overdue("small") as calls:`, and `calls.begin()` before each call
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from costopt.schema.replica import EXIT_NOT_RETRYABLE
from costopt_trainer.errors import NotRetryable
from costopt_trainer.launch.rank_error import ERROR_FILE_VARIABLE, record_error

CALL_LIMIT_SECONDS = 300.0
"""Limit of one call while a variant is measured; compiling does not count."""


class Overdue:
    """Ends this process, as NotRetryable("InvalidSettings") would, if one call exceeds its limit."""

    def __init__(self, name: str, limit_seconds: float | None = None) -> None:
        self._name = name
        self._limit = CALL_LIMIT_SECONDS if limit_seconds is None else limit_seconds
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._paused = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="overdue", daemon=True).start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._over.set()

    def begin(self) -> None:
        """A call begins now; the previous one has ended."""
        self._begun = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """No call is timed meanwhile."""
        self._paused = True
        try:
            yield
        finally:
            self.begin()
            self._paused = False

    def _watch(self) -> None:
        while True:
            left = self._limit if self._paused else self._begun + self._limit - time.monotonic()
            if left <= 0:
                self._end()
            if self._over.wait(left):
                return

    def _end(self) -> NoReturn:
        error = NotRetryable(
            "InvalidSettings",
            f"a run of {self._name} on one micro-batch has not ended after {self._limit:.0f} s: "
            "give it more CPU, or lower batch.microBatchSize",
        )
        record_error(Path(os.environ.get(ERROR_FILE_VARIABLE) or os.devnull), error, reason=error.reason)
        print(f"costopt: {error.reason}: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_NOT_RETRYABLE)
