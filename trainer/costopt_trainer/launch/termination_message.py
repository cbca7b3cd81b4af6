"""How a replica ended, from the ends of its ranks: the exit code, and the message in at most 4,096 bytes.

    ends of ranks -> first_failure -> replica_exit_code, describe -> to_bytes -> write

Which rank is "first": a rank that failed by itself precedes one that only lost its connection to another (an echo),
whatever the clock says, because an echo often ends before the failure that caused it.
"""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from costopt.hostile import Hostile, append_file, read_file
from costopt.schema.base import Strict
from costopt.schema.replica import (
    EXIT_DONE,
    EXIT_NOT_RETRYABLE,
    EXIT_PREEMPTED,
    TERMINATION_MESSAGE_LIMIT_BYTES,
    FailureReason,
    Progress,
    TerminationMessage,
)
from costopt.schema.variant_details import VariantReport
from costopt.schema.variant_report import VariantStatus
from costopt_trainer.launch.rank_error import RankError

EXIT_FAILED = 1
LOG_TAIL_LINES = 40
LOG_LINE_CHARACTERS = 2000
MESSAGE_CHARACTERS = 2000
NOT_A_COMMAND = {126: "a command could not be executed", 127: "a command or shared library was not found"}
"""Exit codes of a shell, or of the program loader, for this."""
SIGNALS_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CUT_FROM_PROGRESS: Mapping[str, object] = {
    "results": {},
    "checkpoints_passed_over": None,
    "bad_samples": None,
    "data_saved": None,
    "restarted_for": None,
}
_MAX_REPORT_BYTES = 2**18
"""Of a progress file or a report on a variant; ours have a few thousand at most."""

Model = TypeVar("Model", bound=Strict)


@dataclass(frozen=True)
class RankEnd:
    """How one rank of this replica ended."""

    rank: int
    exit_code: int
    """Its own exit code; negative: the signal that killed it."""
    time: float
    """When it failed or, if it did not say, when its end was noticed; seconds since 1970."""
    error: RankError | None = None
    by_itself: bool = True
    """False if this launcher ended it, after another rank's failure."""
    told_to_stop: bool = False
    """True if it got SIGTERM because the replica was told to stop."""
    log_tail: tuple[str, ...] = ()
    """Its last lines."""

    @property
    def preempted(self) -> bool:
        """Whether it stopped because it was told to: with 143, or by SIGTERM itself if it does not catch it."""
        return self.exit_code == EXIT_PREEMPTED or (self.told_to_stop and self.exit_code == -signal.SIGTERM)

    @property
    def is_echo(self) -> bool:
        """Whether its failure looks like the effect of another rank's end."""
        return self.error is not None and self.error.is_echo


def first_failure(ends: Sequence[RankEnd]) -> RankEnd | None:
    """The rank whose end explains the replica's; None if all ended with 0."""
    failed = [end for end in ends if end.exit_code != EXIT_DONE]
    return min(failed, key=lambda end: (not end.by_itself, end.is_echo, end.preempted, end.time), default=None)


def replica_exit_code(first: RankEnd | None) -> int:
    """0, 143, 78 or 1, by the first failure."""
    if first is None:
        return EXIT_DONE
    if first.preempted:
        return EXIT_PREEMPTED
    return EXIT_NOT_RETRYABLE if first.exit_code == EXIT_NOT_RETRYABLE else EXIT_FAILED


def describe(
    first: RankEnd | None,
    *,
    replica_index: int,
    memory_ran_out: bool,
    progress: Progress | None,
    variant: VariantStatus | None = None,
) -> TerminationMessage:
    """The replica's message. `memory_ran_out`: the kernel killed a process of this replica's cgroup for its memory.

    `variant` is the report in the storage; it is this replica's own only if all went well.
    """
    code = replica_exit_code(first)
    if first is None:
        return TerminationMessage(exit_code=code, progress=progress, variant=variant)
    if first.preempted:
        sentence = f"Stopped on SIGTERM; rank {first.rank} ended with exit code {first.exit_code}."
        return TerminationMessage(exit_code=code, reason="Preempted", message=sentence, progress=progress)
    reason, sentence = _reason_and_sentence(first, memory_ran_out)
    return TerminationMessage(
        exit_code=code,
        reason=reason,
        message=clean(sentence, MESSAGE_CHARACTERS),
        rank=first.rank,
        replica_index=replica_index,
        rank_exit_code=first.exit_code,
        echo=first.is_echo,
        time=rfc3339(first.time),
        log_tail=[clean(line, LOG_LINE_CHARACTERS) for line in first.log_tail[-LOG_TAIL_LINES:]],
        progress=progress,
    )


def last_checkpoint(progress: Progress | None) -> str:
    """Where training stands should nothing more be saved, as the end of a sentence."""
    if progress is None:
        return "no progress was reported yet"
    step = progress.last_checkpoint_step
    return "there is no checkpoint yet" if step is None else f"the last checkpoint is that of step {step}"


def stopped_without_ranks(why: str, progress: Progress | None, *, between_rounds: bool = False) -> TerminationMessage:
    """The message of a replica that was told to stop while none of its ranks ran."""
    sentence = f"Stopped on {why} before any rank started."
    if between_rounds:
        sentence = f"Stopped on {why} while ranks were started anew in place; {last_checkpoint(progress)}."
    return TerminationMessage(exit_code=EXIT_PREEMPTED, reason="Preempted", message=sentence, progress=progress)


def _reason_and_sentence(first: RankEnd, memory_ran_out: bool) -> tuple[FailureReason, str]:
    code, error, who = first.exit_code, first.error, f"Rank {first.rank}"
    if error is not None:
        if memory_ran_out and error.is_of_a_killed_helper:
            return "OutOfMemory", f"A process of {who.lower()} was killed because memory ran out: {error.sentence}"
        return error.reason or error.memory_reason or "ProcessFailed", error.sentence
    number = signal_number(code)
    if number == signal.SIGKILL and memory_ran_out:
        return "OutOfMemory", f"{who} was killed because the replica's memory limit was reached."
    if number is not None:
        killed = number in SIGNALS_FROM_OUTSIDE
        with_code = f" (exit code {code})" if code > 0 else ""
        sentence = f"{who} {'was killed by' if killed else 'died of'} {signal_name(number)}{with_code}."
        return ("ProcessKilled" if killed else "ProcessFailed"), sentence
    if code in NOT_A_COMMAND:
        return "CommandNotFound", f"{who} ended with exit code {code}: {NOT_A_COMMAND[code]}."
    return "ProcessFailed", f"{who} ended with exit code {code}."


def signal_number(code: int) -> int | None:
    """The signal in an exit code: -9, or 137 as a shell reports it for a program that it ran. None: no signal."""
    if code < 0:
        return -code
    return code - 128 if code - 128 in set(signal.Signals) else None


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clean(text: str, max_characters: int) -> str:
    """`text` without lone surrogates, which UTF-8 cannot encode, cut to `max_characters`."""
    return text[:max_characters].encode("utf-8", "replace").decode("utf-8")


def to_bytes(message: TerminationMessage) -> bytes:
    """The message as JSON of at most 4,096 bytes, still valid.

    If it is too long, these are cut in order: the oldest log lines, the beginning of the last one, the end of the
    sentence, the progress' texts and named results, the lists of steps that no other beats, how a variant's steps were
    found at all (report.json has both). The rest of
    the report on a variant always stays: without it the variant counts as failed. What else is left (numbers and short
    words) is below 1,500 bytes, and such a report below 3,000.
    """

    def encode(**changes: object) -> bytes:
        return message.model_copy(update=changes).model_dump_json(by_alias=True, exclude_none=True).encode()

    def fits(**changes: object) -> bool:
        return len(encode(**changes)) <= TERMINATION_MESSAGE_LIMIT_BYTES

    lines, text = message.log_tail, message.message
    kept = _most(len(lines), lambda count: fits(log_tail=lines[len(lines) - count :]))
    if kept > 0:
        return encode(log_tail=lines[len(lines) - kept :])
    if fits(log_tail=[]):
        last = lines[-1] if lines else ""
        characters = _most(len(last), lambda count: fits(log_tail=[last[len(last) - count :]]))
        return encode(log_tail=[last[len(last) - characters :]] if characters else [])
    characters = _most(len(text), lambda count: fits(log_tail=[], message=text[:count]))
    numbers = message.progress and message.progress.model_copy(update=_CUT_FROM_PROGRESS)
    if numbers == message.progress and message.variant is not None and not fits(log_tail=[], message=""):
        variant, search = message.variant, message.variant.search
        if search is not None and search.pareto:
            without = search.model_copy(update={"pareto": []})
            return to_bytes(message.model_copy(update={"variant": variant.model_copy(update={"search": without})}))
        return encode(log_tail=[], message="", variant=variant.model_copy(update={"search": None}))
    if characters > 0 or numbers == message.progress:
        return encode(log_tail=[], message=text[:characters])
    return to_bytes(message.model_copy(update={"progress": numbers}))


def _most(highest: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `highest` that fits, if all smaller ones fit too; 0 if none does."""
    low = 0
    while low < highest:
        middle = (low + highest + 1) // 2
        low, highest = (middle, highest) if fits(middle) else (low, middle - 1)
    return low


def write(path: Path | None, message: TerminationMessage) -> None:
    """Write the message in place: in a pod the file is a mount, which a rename cannot replace."""
    if path is None:
        return
    try:
        with append_file(path) as stream:  # a pipe in its place would block the replica forever
            stream.truncate(0)
            stream.write(to_bytes(message))
    except (OSError, Hostile) as error:
        print(f"costopt: the termination message cannot be written: {error}", file=sys.stderr, flush=True)


def read_progress(path: Path | None) -> Progress | None:
    """The last progress a rank of this replica wrote; None if there is none, or no valid one."""
    return None if path is None else _read(path, Progress)


def read_report(path: Path) -> VariantStatus | None:
    """The status' part of the report on a variant; None if there is none, or no valid one."""
    report = _read(path, VariantReport)
    return report and report.in_short()


def _read(path: Path, model: type[Model]) -> Model | None:
    try:
        return model.model_validate_json(read_file(path, max_bytes=_MAX_REPORT_BYTES))
    except (OSError, ValueError):
        return None
