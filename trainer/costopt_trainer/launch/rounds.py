"""A round is one life of a gang's ranks. What follows when it has failed, and what it leaves behind (all pure).

RoundEnd           how a replica's ranks ended, as its launcher tells the others
decide             the ends of all replicas -> another round with the same launchers, or the end of the attempt
account_of_round   where the time of a failed round went
"""

from collections.abc import Mapping
from dataclasses import dataclass

from costopt.schema.base import Strict
from costopt.schema.replica import (
    EXIT_DONE,
    EarlierRounds,
    FailureReason,
    MeteredMilliseconds,
    RestartCause,
    TerminationMessage,
)
from costopt_trainer.launch.termination_message import EXIT_FAILED

NOT_IN_PLACE: Mapping[FailureReason, str] = {
    "DataUnreachable": "its data cannot be reached just now, which the next attempt tries after a pause",
}
"""Reasons for which another round would begin too soon to help."""

CAUSE_CHARACTERS = 300
"""Kept of a failure's sentence: it travels in every report of progress."""


class RoundEnd(Strict):
    """How one replica's part of a round ended."""

    message: TerminationMessage
    """The first failure among its ranks."""
    by_itself: bool
    """False: its launcher ended its ranks because another replica had failed."""
    saved: bool
    """Whether a checkpoint was completed in this round."""
    leaves: bool = False
    """Its launcher ends, whatever the others do."""


class Verdict(Strict):
    """What replica 0 decides for all."""

    restart: bool
    """Another round with the same launchers."""
    why: str
    """Why not; or which restart in a row it is."""
    in_a_row: int
    """Restarts without a checkpoint in between, this one included."""
    cause: TerminationMessage | None = None
    """The first failure of the gang. None: none is known."""


def decide(ends: Mapping[int, RoundEnd | None], hang: TerminationMessage | None, in_a_row: int, limit: int) -> Verdict:
    """`ends` by replica (None: its launcher did not come back), `hang`: why the ranks were ended if they hung.

    `in_a_row`: restarts without a checkpoint in between so far. A checkpoint begins their count anew, and steps do not:
    without one the next failure loses them again, and a gang that always fails there would go round for ever.
    """
    told = [end for end in ends.values() if end is not None]
    failed = [end.message for end in told if end.by_itself and end.message.exit_code != EXIT_DONE]
    cause = hang or min(failed, key=lambda message: (message.echo, message.time or "~"), default=None)
    if any(end.saved for end in told):
        in_a_row = 0

    def ends_now(why: str) -> Verdict:
        return Verdict(restart=False, why=why, in_a_row=in_a_row, cause=cause)

    missing = [replica for replica, end in ends.items() if end is None]
    if missing:
        return ends_now(f"replica {missing[0]} did not come back")
    leaving = [replica for replica, end in ends.items() if end is not None and end.leaves]
    if leaving:
        return ends_now(f"replica {leaving[0]} has ended")
    if any(message.exit_code != EXIT_FAILED for message in failed):
        return ends_now("a restart would not help")
    for message in failed:
        if message.reason is not None and message.reason in NOT_IN_PLACE:
            return ends_now(NOT_IN_PLACE[message.reason])
    if in_a_row >= limit:
        return ends_now(f"{in_a_row} restarts in a row have brought no checkpoint")
    return Verdict(restart=True, why=f"{in_a_row + 1} of {limit} in a row", in_a_row=in_a_row + 1, cause=cause)


@dataclass(frozen=True)
class RoundAccount:
    """What a replica's ranks told of a round's time before they ended, and how long it took."""

    elapsed_milliseconds: int
    """From the end of the round before (or the launcher's start) until all ranks had ended."""
    metered: MeteredMilliseconds | None
    """Of its first rank, of this round alone. None: a program that gives no account."""


def account_of_round(before: MeteredMilliseconds, account: RoundAccount, *, first: bool) -> MeteredMilliseconds:
    """The account of all rounds up to one that failed; it covers their time to the millisecond.

    What a checkpoint holds stays productive. What none holds is lost, and with it the time from the last sign of a rank
    to its end. A round that took no step has spent all on its start. A program that gives no account works from its
    beginning, so a failed round of it is lost as a whole.
    """
    own = account.metered
    if own is None:
        return before.model_copy(update={"lost": before.lost + account.elapsed_milliseconds})
    told = own.startup + own.productive + own.since_checkpoint + own.data_wait + own.checkpoint + own.selecting
    rest = max(0, account.elapsed_milliseconds - told)
    takes_steps = own.startup > 0
    start = own.startup + (0 if takes_steps else rest)
    return MeteredMilliseconds(
        startup=before.startup + (start if first else 0),
        recovery=before.recovery + (0 if first else start),
        productive=before.productive + own.productive,
        data_wait=before.data_wait + own.data_wait,
        checkpoint=before.checkpoint + own.checkpoint,
        selecting=before.selecting + own.selecting,
        lost=before.lost + own.since_checkpoint + (rest if takes_steps else 0),
    )


def after_restart(
    before: EarlierRounds, metered: MeteredMilliseconds, cause: TerminationMessage | None
) -> EarlierRounds:
    """What the next round's ranks are told."""
    told = None
    if cause is not None and cause.reason is not None:
        sentence = cause.message[:CAUSE_CHARACTERS]
        told = RestartCause(reason=cause.reason, message=sentence, rank=cause.rank, replica_index=cause.replica_index)
    return EarlierRounds(restarts=before.restarts + 1, metered=metered, cause=told)
