"""Keys to reconcile: each is queued once however often it is added, and never handled by two workers at a time."""

import asyncio
import heapq
import itertools
import time
from collections import deque

from costopt_operator.decide.keys import Key

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 60.0
REST_SECONDS = 0.5
"""Shortest time between two reconciles of a key: an event of a gang reaches all its pods, one after the other."""
LONGEST_REST_SECONDS = 2.0


class WorkQueue:
    """A queue of keys with delays and backoff. After a reconcile a key is held back for `rest_seconds`."""

    def __init__(self, rest_seconds: float = REST_SECONDS) -> None:
        self._rest_seconds = rest_seconds
        self._new: deque[Key] = deque()
        self._due: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._in_work: set[Key] = set()
        """Keys being processed, and keys held back."""
        self._resting: list[tuple[float, int, Key]] = []
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._later_at: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._order = itertools.count()
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Idle workers; each key wakes one of them."""
        self._alarm: asyncio.TimerHandle | None = None
        """Fires when the next delayed key is due, if a worker waits."""

    def __len__(self) -> int:
        return len(self._new) + len(self._due)

    def add(self, key: Key, *, new: bool = False) -> None:
        """Reconcile `key` as soon as a worker is free; if it is being processed, once more afterwards.

        New keys come before all others: when there is much to do, a job still starts at once.
        """
        if key in self._in_work:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            (self._new if new else self._due).append(key)
            self._wake_one()

    def add_after(self, key: Key, seconds: float) -> None:
        """Reconcile `key` after this many seconds; an earlier time already set stays."""
        at = time.monotonic() + seconds
        if at < self._later_at.get(key, float("inf")):
            self._later_at[key] = at
            heapq.heappush(self._later, (at, next(self._order), key))
            self._set_alarm()

    def failed(self, key: Key, *, longest: float = LONGEST_BACKOFF_SECONDS) -> float:
        """Reconcile `key` again after a pause that grows with each failure in a row, up to `longest`; returns the
        pause in seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        pause = min(longest, FIRST_BACKOFF_SECONDS * 2.0 ** min(count, 20))
        self.add_after(key, pause)
        return pause

    def succeeded(self, key: Key) -> None:
        """Reset the failure count of `key`."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key; the worker calls `done` when it has processed it."""
        while True:
            self._move_what_is_due()
            if self._new or self._due:
                key = (self._new or self._due).popleft()
                self._queued.discard(key)
                self._in_work.add(key)
                return key
            await self._wait()

    def done(self, key: Key, spent_seconds: float = 0.0) -> None:
        """The reconcile of `key` is over; `spent_seconds` is the time spent on deciding, without waiting for others.

        The key is held back for nine times as long if that is more: a gang of a thousand pods makes a thousand changes,
        and each reconcile takes a while. If the key was added meanwhile, it is reconciled once more afterwards.
        """
        rest = max(self._rest_seconds, min(LONGEST_REST_SECONDS, 9 * spent_seconds))
        heapq.heappush(self._resting, (time.monotonic() + rest, next(self._order), key))
        self._set_alarm()

    async def _wait(self) -> None:
        """Wait until there is, or may be, a key."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._set_alarm()
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # woken, and then cancelled: another must take the key
                self._wake_one()
            raise

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_alarm(self) -> None:
        heads = [heap[0][0] for heap in (self._later, self._resting) if heap]
        if not self._waiting or not heads:
            return
        if self._alarm is not None:
            if self._alarm.when() <= min(heads):
                return
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(min(heads), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._move_what_is_due()
        self._set_alarm()

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
