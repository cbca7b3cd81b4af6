"""A bounded number of actions per second."""

import time
from collections.abc import Callable


class RateLimiter:
    """A token bucket: it holds at most the tokens of ten seconds.

    See J. Turner, "New directions in communications", IEEE Communications Magazine 24(10), 1986.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = 10 * per_second
        self._left = self._most
        self._clock = clock
        self._counted = clock()

    def take(self) -> bool:
        """Take one; False if there is none."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._counted) * self._per_second)
        self._counted = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
