"""Keys that are to be looked at: each once however often it is named, never by two workers at a time."""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections import deque

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 60.0
REST_SECONDS = 0.2
"""Between two looks at one key: what happens to a gang happens to all its pods, one after the other."""
LONGEST_REST_SECONDS = 2.0

Key = tuple[str, str]
"""Namespace, and the job's label value (see `costopt.render`: the name, or a hash of a long one)."""


class WorkQueue:
    """A queue of keys with delays and backoff. A key rests for `rest_seconds` after a look, and is not given out."""

    def __init__(self, rest_seconds: float = REST_SECONDS) -> None:
        self._rest_seconds = rest_seconds
        self._new: deque[Key] = deque()
        self._due: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._in_work: set[Key] = set()
        """Keys given out, and those that rest."""
        self._resting: list[tuple[float, int, Key]] = []
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._later_at: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._order = itertools.count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._new) + len(self._due)

    def add(self, key: Key, *, new: bool = False) -> None:
        """Look at `key` as soon as a worker is free; once more after the look that is under way, if one is.

        New keys come before all others: when there is much to do, a job still starts at once.
        """
        if key in self._in_work:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            (self._new if new else self._due).append(key)
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
            if self._new or self._due:
                key = (self._new or self._due).popleft()
                self._queued.discard(key)
                self._in_work.add(key)
                return key
            self._wake.clear()
            next_times = [heap[0][0] for heap in (self._later, self._resting) if heap]
            pause = min(next_times) - time.monotonic() if next_times else None
            # Not wait_for: that may pass over a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def done(self, key: Key, spent_seconds: float = 0.0) -> None:
        """The look at `key` is over, and took so long to decide, waits for others left out.

        It rests for nine times as long if that is more: a gang of a thousand pods makes a thousand changes, and each
        look at it takes a while. If it was named meanwhile it is then looked at once more.
        """
        rest = max(self._rest_seconds, min(LONGEST_REST_SECONDS, 9 * spent_seconds))
        heapq.heappush(self._resting, (time.monotonic() + rest, next(self._order), key))
        self._wake.set()

    def _move_what_is_due(self) -> None:
        now = time.monotonic()
        while self._resting and self._resting[0][0] <= now:
            rested = heapq.heappop(self._resting)[2]
            self._in_work.discard(rested)
            if rested in self._again:
                self._again.discard(rested)
                self.add(rested)
        while self._later and self._later[0][0] <= now:
            at, _, key = heapq.heappop(self._later)
            if self._later_at.get(key) == at:
                del self._later_at[key]
                self.add(key)
