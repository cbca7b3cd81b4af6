"""Keys that are to be looked at: each once however often it is named, never by two workers at a time."""

import asyncio
import heapq
import itertools
import time
from collections import deque

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 60.0
LONGEST_REST_SECONDS = 2.0

Key = tuple[str, str]
"""Namespace, and the job's label value (see `costopt.render`: the name, or a hash of a long one)."""


class WorkQueue:
    """A queue of keys with delays and backoff."""

    def __init__(self) -> None:
        self._due: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._in_work: set[Key] = set()
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._later_at: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._order = itertools.count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key) -> None:
        """Look at `key` as soon as a worker is free; once more after the look that is under way, if one is."""
        if key in self._in_work:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._due.append(key)
            self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at `key` in so many seconds; an earlier time already set stays."""
        at = time.monotonic() + seconds
        if at < self._later_at.get(key, float("inf")):
            self._later_at[key] = at
            heapq.heappush(self._later, (at, next(self._order), key))
            self._wake.set()

    def failed(self, key: Key) -> float:
        """Look at `key` again after a pause that grows with each failure in a row; returns it, in seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        pause = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(count, 20))
        self.add_after(key, pause)
        return pause

    def succeeded(self, key: Key) -> None:
        """The failures of `key` so far do not count any more."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key; to be given back with `done`."""
        while True:
            self._move_what_is_due()
            if self._due:
                key = self._due.popleft()
                self._queued.discard(key)
                self._in_work.add(key)
                return key
            self._wake.clear()
            pause = self._later[0][0] - time.monotonic() if self._later else None
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                continue

    def done(self, key: Key, spent_seconds: float = 0.0) -> None:
        """The look at `key` is over, and took so long to decide, waits for others left out.

        If it was named again meanwhile it is looked at once more, but not before nine times as long has passed: a gang
        of a thousand pods makes a thousand changes, and each look at it takes a while.
        """
        self._in_work.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add_after(key, min(LONGEST_REST_SECONDS, 9 * spent_seconds))

    def _move_what_is_due(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            at, _, key = heapq.heappop(self._later)
            if self._later_at.get(key) == at:
                del self._later_at[key]
                self.add(key)
