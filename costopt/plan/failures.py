"""Which replica's end is the failure to report, and what kind of end it was.

When one rank dies the others lose their connections and die too, often sooner noticed than the one that began it. What
is reported is the cause: an end that the platform owns up to goes before all others, an echo (a launcher says so of
itself) comes last, and among equals the earliest counts. An end on SIGTERM alone may be the platform's doing, or that
of whoever stopped a gang that had broken before, which the shell may have been too late to see: the time tells. The
failure kept in the stage also tells, once the whole gang has ended, what kind of end it was; replicas that ended
because we stopped a broken gang have no say.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from costopt.plan.observed import Replica
from costopt.schema.replica import EXIT_NOT_RETRYABLE, EXIT_PREEMPTED, FailureReason
from costopt.schema.status import Failure

FailureKind = Literal["NotRetryable", "Disruption", "Failure"]

NOT_RETRYABLE_REASONS: frozenset[FailureReason] = frozenset({"InvalidSettings", "InvalidData", "LossNotFinite"})
"""Reasons that no restart can mend, whatever the exit code."""

LOST_TO_PLATFORM: frozenset[FailureReason] = frozenset({"Preempted", "Lost"})
"""Reasons that are the platform's doing; Lost: nobody saw the end."""

_SIGTERM_EXITS = frozenset({EXIT_PREEMPTED, -15})  # -15: before the launcher could trap the signal
_SIGKILL_EXITS = frozenset({137, -9})

_LATEST = datetime.max.replace(tzinfo=UTC)


def exit_code(replica: Replica) -> int | None:
    """How the replica ended; None when nobody saw it."""
    if replica.exit_code is not None:
        return replica.exit_code
    return replica.termination.exit_code if replica.termination else None


def kind_of(replica: Replica) -> FailureKind:
    """What a replica's end, otherwise than well, means. An end that nobody saw was the platform's doing."""
    reason = failure_of(replica).reason
    if exit_code(replica) == EXIT_NOT_RETRYABLE or reason in NOT_RETRYABLE_REASONS:
        return "NotRetryable"
    return "Disruption" if reason in LOST_TO_PLATFORM else "Failure"


def failure_of(replica: Replica) -> Failure:
    """The replica's end as the status tells it."""
    said = replica.termination
    code = exit_code(replica)
    return Failure(
        stage=replica.stage,
        attempt=replica.attempt,
        reason=_reason(replica),
        message=(said.message if said else "") or _sentence(replica, code),
        rank=said.rank if said else None,
        node=said.node if said and said.node is not None else replica.index,
        exit_code=said.rank_exit_code if said and said.rank_exit_code is not None else code,
        log_tail=said.log_tail if said else [],
    )


def first_failure(failed: Iterable[Replica], known: Failure | None) -> Failure | None:
    """The failure of an attempt to report, given the one `known` so far; None when nothing failed.

    The known one stays, except that an echo gives way to its cause. The cause is then not sought among replicas that
    ended as our own stopping of the broken gang would end them.
    """
    ended = list(failed)
    if known is None:
        return failure_of(min(ended, key=_rank)) if ended else None
    if known in [failure_of(replica) for replica in ended if _is_echo(replica)]:
        causes = [replica for replica in ended if not _is_echo(replica) and not _may_be_our_doing(replica)]
        if causes:
            return failure_of(min(causes, key=_rank))
    return known


def ended_when(replica: Replica) -> datetime:
    """When its first rank failed, as far as is known: what it said itself goes before what its shell saw."""
    if replica.termination and replica.termination.time:
        try:
            said = datetime.fromisoformat(replica.termination.time)
        except ValueError:
            pass
        else:
            return said if said.tzinfo else said.replace(tzinfo=UTC)
    return replica.ended_at or _LATEST


def _rank(replica: Replica) -> tuple[bool, bool, datetime, bool, int, str]:
    taken = replica.disrupted or exit_code(replica) is None
    return (_is_echo(replica), not taken, ended_when(replica), _may_be_our_doing(replica), replica.index, replica.uid)


def _is_echo(replica: Replica) -> bool:
    return replica.termination is not None and replica.termination.echo and not replica.disrupted


def _may_be_our_doing(replica: Replica) -> bool:
    if replica.disrupted:
        return False
    if exit_code(replica) in _SIGTERM_EXITS:
        return True
    return exit_code(replica) in _SIGKILL_EXITS and (replica.termination is None or replica.termination.reason is None)


def _reason(replica: Replica) -> FailureReason:
    code = exit_code(replica)
    said = replica.termination.reason if replica.termination else None
    if code == EXIT_NOT_RETRYABLE:
        return said or "InvalidSettings"
    if replica.disrupted or code in _SIGTERM_EXITS:
        return "Preempted"
    if code is None:
        return "Lost"
    return said or ("ProcessKilled" if code in _SIGKILL_EXITS else "ProcessFailed")


def _sentence(replica: Replica, code: int | None) -> str:
    who = f"replica {replica.index} of {replica.stage}"
    if code is None:
        return f"{who} ended unseen: its machine or its supervisor was lost"
    if replica.disrupted:
        return f"{who} was ended by the platform with exit code {code}"
    return f"{who} ended with exit code {code}"
