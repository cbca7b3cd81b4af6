"""The outcome in a replica's usage record: what its attempt was counted as.

The replicas of an attempt start, fail and restart together. So a record does not judge by itself why its replica
ended (a killed rank takes the others with it, and those end as if they had been preempted): it says what the plan
counted for the attempt. Only a replica that succeeded may say so before that is known.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from costopt.schema.replica import FailureReason
from costopt.schema.usage import Outcome, UsageRecord

Attempt = tuple[str, int]
"""Stage and attempt number."""

Counted = Literal["Success", "Failure", "Disruption", "Suspension", "Stop"]
"""Suspension and Stop count as nothing: the job was stopped, for a while or for good."""


@dataclass(frozen=True)
class AttemptEnd:
    """What an attempt was counted as when all its replicas had ended."""

    counted: Counted
    reason: FailureReason | None = None
    """Of the failure or disruption."""
    all_ended_well: bool = False
    """Every replica exited 0. If it does not count as a success, that was not enough."""


def outcome_of(end: AttemptEnd | None, *, ended_well: bool) -> Outcome | None:
    """The outcome of a replica of an attempt with this `end` (None: not counted yet). None: not known."""
    if ended_well and (end is None or end.counted == "Success" or not end.all_ended_well):
        return "Succeeded"
    if end is None:
        return None
    match end.counted:
        case "Success":
            return "Succeeded"
        case "Failure":
            return "Stalled" if end.reason == "Stalled" else "Failed"
        case "Disruption":
            return "Disrupted"
        case "Suspension":
            return "Suspended"
        case "Stop":
            return "Stopped"


def outcome_in(
    attempt: Attempt,
    *,
    ended_well: bool,
    ends: Mapping[Attempt, AttemptEnd],
    records: Iterable[UsageRecord],
    known: Mapping[Attempt, AttemptEnd | None],
) -> Outcome | None:
    """The same for an ended replica of `attempt`. None: its attempt goes on, so its record has to wait.

    `ends` are the attempts counted just now. Attempts counted earlier are found in the `records` made since, or, if
    there are none, in what is `known` of each stage (None: the attempt goes on). An unknown attempt was stopped, and
    nobody waited for it.
    """
    if attempt in ends:
        return outcome_of(ends[attempt], ended_well=ended_well)
    if ended_well:
        return "Succeeded"
    end = known.get(attempt, AttemptEnd("Stop"))
    if end is None:
        return None
    lost = [record.outcome for record in records if (record.stage, record.attempt) == attempt]
    lost = [outcome for outcome in lost if outcome not in ("Running", "Succeeded")]
    return lost[-1] if lost else outcome_of(end, ended_well=False)
