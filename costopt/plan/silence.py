"""How long a replica has been silent, as far as readings of its log show.

Only what lies between two looks that both succeeded is known: if they show the same, nothing was said in between. So a
silence is a sum of such spans. It begins with the first look, for an observer that has just begun knows of nothing
before; it does not grow while looks fail; and a look that comes far too late, because the observer itself was away,
counts no more than one that comes a little late. Nothing here compares clocks: what a look shows is compared with what
the one before showed, and time is the observer's own, on a clock that is never set.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

LOOKS_PER_TIMEOUT = 10
"""Looks within a stall timeout: a stalled gang is found a tenth of it late at most."""
MOST_OFTEN = timedelta(seconds=2)
"""Between two looks, however short the timeout; a look has its price."""
MOST_RARELY = timedelta(seconds=30)
"""Between two looks, however long the timeout; they also show how far training is."""


def look_every(stall_timeout: timedelta) -> timedelta:
    """Time between two looks from afar for that timeout."""
    return min(MOST_RARELY, max(MOST_OFTEN, stall_timeout / LOOKS_PER_TIMEOUT))


@dataclass(frozen=True)
class Silence:
    """What looks at one replica have shown so far. Moments are readings of the observer's steady clock."""

    mark: str | None = None
    """What the last look that succeeded has shown; None: none has yet."""
    known: timedelta = timedelta(0)
    """For how long that is known not to have changed."""
    until: timedelta | None = None
    """When the known silence ends so far; None: the last look failed, so what came after is not known."""

    @property
    def length(self) -> timedelta | None:
        """How long the silence is; None: nothing is known of it now."""
        return None if self.until is None else self.known

    def heard(self, mark: str, *, asked: timedelta, answered: timedelta, longest: timedelta) -> Self:
        """After a look that showed `mark`. The replica was seen at some moment between `asked` and `answered`.

        At most `longest` is counted of the time since the look before.
        """
        if mark != self.mark:
            return type(self)(mark, timedelta(0), answered)
        if self.until is None:
            return replace(self, until=answered)
        return replace(self, known=self.known + min(longest, max(timedelta(0), asked - self.until)), until=asked)

    def missed(self) -> Self:
        """After a failed reading."""
        return replace(self, until=None)
