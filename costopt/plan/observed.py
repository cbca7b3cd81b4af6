"""What a shell saw: everything a decision may depend on, besides the time.

A shell fills this in from the world (processes and files, or pods) and hands it to `costopt.plan.decide.plan`. Two
duties come with it. A replica that is still to come (its Job or its start is under way) is reported as Running, so that
a gang seen half-way through its creation is not taken for one that lost replicas. And the ends of replicas are read
before the variants' reports, so that a variant which ended well is never seen without the report it wrote.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from costopt.accounting.outlook import Outlook
from costopt.plan.evidence import NOTHING, Evidence
from costopt.schema.job import JobSpec
from costopt.schema.replica import Phase, Progress, TerminationMessage
from costopt.schema.status import Bill, JobStatus
from costopt.schema.variant_report import VariantStatus

ReplicaState = Literal["Running", "Succeeded", "Failed"]


@dataclass(frozen=True)
class Replica:
    """One launcher process or pod."""

    uid: str
    """Unique over the whole job: the key of its usage record."""
    stage: str
    """"train" or the variant's name."""
    attempt: int
    """Attempt of the stage it belongs to."""
    index: int
    """Completion index within the gang, from 0."""
    state: ReplicaState
    """Running (also while it waits to be placed), Succeeded (exit 0) or Failed (any other end)."""
    exit_code: int | None = None
    """Exit code once ended; negative: the signal that killed it. None while running, or if nobody saw its end."""
    disrupted: bool = False
    """True when the platform, not the job and not we, ended it: preemption, eviction, a lost node."""
    evidence: Evidence = NOTHING
    """What others than itself wrote down about its end."""
    ended_at: datetime | None = None
    """When it ended (aware)."""
    termination: TerminationMessage | None = None
    """What it said at its end."""
    silent_for: timedelta | None = None
    """How long looks at it have shown neither a step nor a line (see `costopt.plan.silence`). None: it does not run, or
    cannot be heard; what is not known has not stalled."""
    waiting_since: datetime | None = None
    """Since when it should be running and is not (aware). None: it runs, or a queue has not admitted it, which is no
    fault that startTimeoutSeconds could find."""
    waiting_for: str = ""
    """What it waits for before it can run, in the same words at each look: it becomes part of a condition. Empty: it
    runs."""
    waits_in_vain: bool = False
    """What it waits for will not come."""
    progress: Progress | None = None
    """Its latest progress report."""
    phase: Phase | None = None
    """What it is at while no step ends. None: its steps go on, or it is not known."""
    starting_for: timedelta | None = None
    """How long it had run, when it was last looked into, without having reported steps. None: it has, or nothing is
    known of it."""

    @property
    def live(self) -> bool:
        """It still holds resources, or is about to."""
        return self.state == "Running"


@dataclass(frozen=True)
class Observed:
    """A job as it is asked for, as it was last written down, and as it is."""

    spec: JobSpec
    """What is asked for now; a shell that was interrupted passes `suspend=True`."""
    generation: int | None
    """Generation of that spec; None on one machine."""
    status: JobStatus
    """The status last written; `JobStatus()` for a new job."""
    replicas: tuple[Replica, ...] = ()
    """Replicas of all attempts still known, in any order."""
    gang_sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Replicas that an attempt (stage, number) really has, where a queue admitted fewer than asked for."""
    held_up: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Attempts (stage, number) that cannot be started yet, or not go on, and what they wait for; in the same words at
    each look."""
    deleting: bool = False
    """The job is being deleted: what runs is stopped, nothing is started any more."""
    bill: Bill | None = None
    """The bill so far, with running replicas counted up to now. None: not made yet."""
    outlook: Outlook | None = None
    """What has no price today. None: nothing is known of it but what the bill says."""
    variants: tuple[VariantStatus, ...] = ()
    """Reports found in the job's storage."""
    max_parallel_variants: int | None = None
    """Variants that may be made at the same time. None: all."""
    identity: str = ""
    """What tells the job from others: jobs that were lost together do not all come back at the same moment."""

    @cached_property
    def gangs(self) -> Mapping[tuple[str, int], tuple[Replica, ...]]:
        """The replicas by stage and attempt, each gang in order of its indexes: there may be thousands."""
        gangs: dict[tuple[str, int], list[Replica]] = {}
        for replica in sorted(self.replicas, key=lambda replica: (replica.index, replica.uid)):
            gangs.setdefault((replica.stage, replica.attempt), []).append(replica)
        return {attempt: tuple(gang) for attempt, gang in gangs.items()}
