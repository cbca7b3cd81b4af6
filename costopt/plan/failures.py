"""Which replica's end is the failure to report, and what kind of end it was.

When one rank dies, the others lose their connections and die too, and are often noticed earlier than the first one. The
cause is reported: an end reported by the platform takes precedence, an echo (the launcher marks itself as one) comes
last, and among equals the earliest counts. An end by SIGTERM alone may come from the platform, or from whoever stopped
a gang that was broken before, which the shell may see too late: the times decide. Once the whole gang has ended, the
failure kept in the stage also decides what kind of end it was; replicas that ended because we stopped a broken gang do
not count.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from costopt.names import TRAIN_STAGE
from costopt.plan import foreign_text
from costopt.plan.causes import CAUSES, FailureKind, help_for
from costopt.plan.evidence import (
    SIGNAL_HELP,
    Finding,
    is_own_doing,
    out_of_memory_words,
    says_out_of_memory,
    signal_of,
    why_it_ended,
    why_the_platform_ended_it,
)
from costopt.plan.observed import Replica
from costopt.schema.replica import EXIT_NOT_RETRYABLE, EXIT_PREEMPTED, TerminationMessage
from costopt.schema.status import Failure

MESSAGE_LIMIT = 3000
"""Characters kept of a message; what would help comes after it."""
LOG_LINE_LIMIT = 2000

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
    return "NotRetryable" if exit_code(replica) == EXIT_NOT_RETRYABLE else CAUSES[_finding(replica).reason].kind


def failure_of(replica: Replica) -> Failure:
    """The replica's end as the status tells it."""
    said = replica.termination
    code = exit_code(replica)
    found = _finding(replica)
    rank_code = said.rank_exit_code if said and said.rank_exit_code is not None else code
    message = foreign_text.lines(found.sentence, MESSAGE_LIMIT)
    if helps := _what_helps(replica, found, rank_code):
        message = f"{message.rstrip(' .')}; {helps}"
    return Failure(
        stage=replica.stage,
        attempt=replica.attempt,
        reason=found.reason,
        message=message,
        rank=said.rank if said else None,
        replica_index=said.replica_index if said and said.replica_index is not None else replica.index,
        exit_code=rank_code,
        log_tail=[foreign_text.one_line(line, LOG_LINE_LIMIT) for line in said.log_tail] if said else [],
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
    if replica.disrupted or is_own_doing(replica.evidence):
        return False
    if exit_code(replica) in _SIGTERM_EXITS:
        return True
    if exit_code(replica) not in _SIGKILL_EXITS or says_out_of_memory(replica.evidence):
        return False
    return replica.termination is None or replica.termination.reason is None


def _finding(replica: Replica) -> Finding:
    """Why the replica ended: by the platform's report, else the launcher's message, else the exit code."""
    said, code, evidence = replica.termination, exit_code(replica), replica.evidence
    who = f"replica {replica.index} of {replica.stage}"
    written = why_it_ended(evidence, who, code)
    if code == EXIT_NOT_RETRYABLE:
        return _said(said, Finding((said and said.reason) or "InvalidSettings", written.sentence))
    if is_own_doing(evidence):
        return written
    if replica.disrupted:
        found = why_the_platform_ended_it(evidence, who, code)
        return found if found.named else _said(said, found)
    if code in _SIGTERM_EXITS:
        return _said(said, Finding("Preempted", f"{who} ended on SIGTERM (exit code {code})"))
    if code is None or said is None or said.reason is None:
        return _said(said, written)
    if said.reason == "ProcessKilled" and says_out_of_memory(evidence):
        rank = who if said.rank is None else f"rank {said.rank}, on {who},"
        return Finding("OutOfMemory", f"{rank} was killed because {out_of_memory_words(evidence)}")
    return _said(said, Finding(said.reason, written.sentence))


def _said(said: TerminationMessage | None, found: Finding) -> Finding:
    """The cause found, in the words of the replica itself where it left any."""
    return Finding(found.reason, said.message) if said and said.message else found


def _what_helps(replica: Replica, found: Finding, rank_code: int | None) -> str:
    if found.reason in ("ProcessFailed", "ProcessKilled"):
        return SIGNAL_HELP.get(signal_of(rank_code, replica.evidence.signal), "")
    return help_for(found.reason, replica.evidence.memory_limit, variant=replica.stage != TRAIN_STAGE)
