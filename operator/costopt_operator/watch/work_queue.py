"""Keys that are to be looked at: each once however often it is named, never by two workers at a time."""

import asyncio
import heapq
import itertools
import time
from collections import deque

from costopt_operator.decide.keys import Key

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 60.0
REST_SECONDS = 0.5
"""Between two looks at one key: what happens to a gang happens to all its pods, one after the other."""
LONGEST_REST_SECONDS = 2.0


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
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Workers without a key; each key wakes one of them."""
        self._alarm: asyncio.TimerHandle | None = None
        """Rings when the next key is due, if anybody waits for it."""

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
            self._wake_one()

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at `key` in so many seconds; an earlier time already set stays."""
        at = time.monotonic() + seconds
        if at < self._later_at.get(key, float("inf")):
            self._later_at[key] = at
            heapq.heappush(self._later, (at, next(self._order), key))
            self._set_alarm()

    def failed(self, key: Key, *, longest: float = LONGEST_BACKOFF_SECONDS) -> float:
        """Look at `key` again after a pause that grows with each failure in a row, to `longest`; returns it, in
        seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        pause = min(longest, FIRST_BACKOFF_SECONDS * 2.0 ** min(count, 20))
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
            await self._wait()

    def done(self, key: Key, spent_seconds: float = 0.0) -> None:
        """The look at `key` is over, and took so long to decide, waits for others left out.

        It rests for nine times as long if that is more: a gang of a thousand pods makes a thousand changes, and each
        look at it takes a while. If it was named meanwhile it is then looked at once more.
        """
        rest = max(self._rest_seconds, min(LONGEST_REST_SECONDS, 9 * spent_seconds))
        heapq.heappush(self._resting, (time.monotonic() + rest, next(self._order), key))
        self._set_alarm()

    async def _wait(self) -> None:
        """Until there is, or may be, a key."""
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
