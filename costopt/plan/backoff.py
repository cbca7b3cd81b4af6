"""Pauses between attempts that are lost one soon after the other.

A node that rejects its pods, or a program that crashes at once, would use up all attempts in seconds. So each attempt
waits twice as long as the one before it, up to a limit; what ran for long begins anew. The first disruption costs no
pause, for a gang that was preempted did nothing wrong, and mostly runs well elsewhere.

Jobs that were lost to the same fault should not all come back at the same moment. How much of its pause a job waits
follows from its own name and attempt, so that a plan made again says the same.
"""

import hashlib
from datetime import datetime, timedelta

from costopt.schema.job import Restarts
from costopt.schema.status import StageStatus

LONG = timedelta(minutes=10)
"""An attempt that lasted for so long is no quick loss: the same time after which a kubelet starts anew."""
_MOST_DOUBLINGS = 32


def losses_in_a_row(stage: StageStatus, now: datetime) -> int:
    """Quick losses up to and with that of the stage's current attempt, which is lost `now`."""
    began = stage.attempt_start_time
    return 1 if began is None or now - began >= LONG else stage.losses_in_a_row + 1


def pause(limits: Restarts, losses: int, *, disrupted: bool, spread_by: str) -> timedelta:
    """The pause after so many losses in a row, of which the last was a disruption or a failure: between a half and the
    whole of `backoffSeconds` doubled for each loss before, as `spread_by` (any text) has it, in whole milliseconds."""
    doublings = losses - (2 if disrupted else 1)
    if doublings < 0:
        return timedelta(0)
    longest = min(limits.backoff_seconds * 2 ** min(doublings, _MOST_DOUBLINGS), limits.max_backoff_seconds)
    return timedelta(milliseconds=longest * (500 + _up_to_500(spread_by)))


def _up_to_500(text: str) -> int:
    """A number from 0 to 500 that two texts hardly share."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % 501


def starts_in(stage: StageStatus, limits: Restarts, now: datetime) -> timedelta:
    """Time until the stage's attempt may start: 0 when it may. A clock that was set back makes no pause longer."""
    begins = stage.attempt_start_time
    left = begins - now if begins is not None else timedelta(0)
    return left if timedelta(0) < left <= timedelta(seconds=limits.max_backoff_seconds) else timedelta(0)
