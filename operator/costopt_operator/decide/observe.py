"""Objects of the cluster -> what the plan needs to know. Pure.

A gang is what its batch Job's pods show, with three corrections:

* An index without a pod so far counts as running (see `costopt.plan.observed`): the Job controller creates pods a
  moment after the Job, and a queue may hold them back for days.
* Pods that a queue ended by suspending the Job do not count: the Job creates others when it is admitted again.
* A pod that was deleted before it reached a node does not count: it held nothing, and the Job creates another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

from costopt.accounting.outcome import Attempt
from costopt.accounting.outlook import Outlook, outlook, still_requested
from costopt.plan.observed import Observed, Replica, ReplicaState
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook
from costopt.schema.replica import (
    EXIT_DONE,
    EXIT_NOT_RETRYABLE,
    EXIT_PREEMPTED,
    STARTUP_PHASES,
    Phase,
    Progress,
    TerminationMessage,
)
from costopt.schema.status import Bill, EarlierJob, JobStatus
from costopt_operator.decide.node_pricing import NodeClass
from costopt_operator.decide.objects import ChildJob, Pod, indexes, parse_time

LARGEST_STATUS = 1_048_576
"""Upper bound on a status, whatever the room."""

ENDS_WHEN_TOLD = (None, EXIT_PREEMPTED, 137)
"""Exit codes of a pod that was told to end; any other is its own failure, even if it comes after that."""


@dataclass(frozen=True)
class LogSight:
    """What a pod's log has shown."""

    silent_for: timedelta | None = None
    """How long it has not changed (see `costopt.plan.silence`); None: unknown."""
    progress: Progress | None = None
    """The newest progress report in it."""
    phase: Phase | None = None
    """Its phase while no step ends; None: steps go on, or it did not say."""
    last_line: datetime | None = None
    """When its newest line was written, by its node's clock: compare it only with that clock."""


@dataclass(frozen=True)
class JobSnapshot:
    """One job and everything that is known about it.

    There may be thousands of pods. Lookups per attempt, and per pod about its gang, use an index that is built once
    per reconcile, so the time of a reconcile is linear in the number of pods.
    """

    job: CostOptJob
    status: JobStatus
    """As last written."""
    generation: int | None = None
    deleting: bool = False
    """The job is being deleted but still exists: its gangs are stopped and recorded, nothing is started."""
    child_jobs: tuple[ChildJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    book: PriceBook | None = None
    nodes: Mapping[str, NodeClass] = field(default_factory=dict)
    """By name."""
    logs: Mapping[str, LogSight] = field(default_factory=dict)
    """By pod uid."""
    unheard: frozenset[str] = frozenset()
    """Uids of ended pods whose logs are being read a last time."""
    earlier: EarlierJob | None = None
    """The previous job of this name, if its end was seen."""
    room: int = LARGEST_STATUS
    """Maximum bytes of its status."""
    refused: Mapping[Attempt, str] = field(default_factory=dict)
    """Attempts whose batch Job the platform or the API server refused, each with the reason in a sentence."""
    held_up: Mapping[Attempt, str] = field(default_factory=dict)
    """Attempts whose children cannot be created yet, and what they wait for."""

    def child_job(self, attempt: Attempt) -> ChildJob | None:
        """The batch Job of that attempt."""
        return self._child_jobs.get(attempt)

    def gang(self, attempt: Attempt) -> Sequence[Pod]:
        """The pods of that attempt."""
        return self.gangs.get(attempt, ())

    @cached_property
    def gangs(self) -> Mapping[Attempt, Sequence[Pod]]:
        """The pods by their attempt."""
        gangs: dict[Attempt, list[Pod]] = {}
        for pod in self.pods:
            gangs.setdefault((pod.stage, pod.attempt), []).append(pod)
        return gangs

    @cached_property
    def live(self) -> frozenset[Attempt]:
        """Attempts with a pod that has not ended."""
        return frozenset((pod.stage, pod.attempt) for pod in self.pods if not pod.ended)

    @cached_property
    def progress(self) -> Mapping[Attempt, Progress]:
        """The progress in the first log of each gang that reports any."""
        found: dict[Attempt, Progress] = {}
        for pod in self.pods:
            log = self.logs.get(pod.uid)
            if log is not None and log.progress is not None:
                found.setdefault((pod.stage, pod.attempt), log.progress)
        return found

    @cached_property
    def _child_jobs(self) -> Mapping[Attempt, ChildJob]:
        return {(child.stage, child.attempt): child for child in reversed(self.child_jobs)}


def observe(snapshot: JobSnapshot, bill: Bill, now: datetime) -> Observed:
    """The job as the plan sees it, with the bill so far."""
    sizes = {(child.stage, child.attempt): child.completions for child in snapshot.child_jobs}
    reports = [pod.said.variant for pod in snapshot.pods if pod.said and pod.said.variant]
    return Observed(
        spec=snapshot.job.spec,
        generation=snapshot.generation,
        status=snapshot.status,
        replicas=tuple(replicas(snapshot)),
        bill=bill,
        outlook=_outlook(snapshot, bill, now),
        variants=tuple(reports),
        gang_sizes=sizes,
        identity=snapshot.job.metadata.uid or "",
        held_up=snapshot.held_up,
        deleting=snapshot.deleting,
    )


def _outlook(snapshot: JobSnapshot, bill: Bill, now: datetime) -> Outlook | None:
    if snapshot.job.spec.budget is None:
        return None
    requested = still_requested(snapshot.job.spec, snapshot.status)
    return outlook(bill, snapshot.book, requested, now.astimezone(UTC).date())


def replicas(snapshot: JobSnapshot) -> Iterator[Replica]:
    """The replicas of every known attempt."""
    attempts = {(child.stage, child.attempt) for child in snapshot.child_jobs}
    for attempt in sorted(attempts | snapshot.gangs.keys() | snapshot.refused.keys()):
        if attempt in snapshot.refused:
            yield _refused(snapshot, attempt)
            continue
        child = snapshot.child_job(attempt)
        pods = tuple(_pods_that_count(snapshot, attempt, child))
        one_fell = any(fell_by_itself(pod) for pod in pods)
        speaker = _speaker(pods, snapshot.logs)
        for pod in pods:
            taken_along = one_fell and pod.exit_code in ENDS_WHEN_TOLD and _was_deleted_first(pod)
            yield _replica(pod, child, snapshot.logs.get(pod.uid), speaker, taken_along=taken_along)
        seen = {pod.index for pod in pods}
        if child is not None:
            yield from _without_a_pod(child, seen)
            if child.failing and not seen:
                yield _unseen(child)


def _pods_that_count(snapshot: JobSnapshot, attempt: Attempt, child: ChildJob | None) -> Iterator[Pod]:
    for pod in snapshot.gang(attempt):
        never_was = pod.ended and pod.node is None and pod.exit_code is None
        if not never_was and not is_of_an_earlier_admission(pod, child):
            yield pod


def is_of_an_earlier_admission(pod: Pod, child: ChildJob | None) -> bool:
    """The pod ended because a queue evicted its Job, which creates another when admitted again."""
    if child is None or child.failing or child.deleting or not pod.ended:
        return False
    if pod.phase == "Succeeded" and pod.exit_code == EXIT_DONE:
        return False
    if child.complete:
        # A pod of the last admission that did not succeed would have failed the Job.
        return state_of(pod) != "Succeeded"
    if child.suspended:
        return True
    # A current pod may be slightly older than the start time, but then its end fails the Job.
    by_itself = pod.phase in ("Succeeded", "Failed")
    return by_itself and child.started is not None and pod.created < child.started


def fell_by_itself(pod: Pod) -> bool:
    """It failed, and not because somebody deleted it."""
    return pod.ended and state_of(pod) == "Failed" and (pod.disrupted or not _was_deleted_first(pod))


def _was_deleted_first(pod: Pod) -> bool:
    """It ended after somebody deleted it."""
    if pod.deleted is None or not pod.ended:
        return False
    asked_to_end = parse_time(pod.deleted) - timedelta(seconds=pod.grace_seconds or 0)
    return pod.finished is None or parse_time(pod.finished) >= asked_to_end


def _speaker(pods: Iterable[Pod], logs: Mapping[str, LogSight]) -> LogSight | None:
    """The log of the running pod with the lowest index: it stands for those whose own logs are not read."""
    running = sorted((pod for pod in pods if pod.running and not pod.ended), key=lambda pod: (pod.index, pod.uid))
    return logs.get(running[0].uid) if running else None


def _replica(
    pod: Pod, child: ChildJob | None, log: LogSight | None, speaker: LogSight | None, *, taken_along: bool
) -> Replica:
    """`taken_along`: another of its gang failed, so the Job controller ended this one."""
    heard = (log or speaker) if pod.running and not pod.ended else None
    waits = not pod.ended and not pod.running
    said = pod.said
    if taken_along:
        said = (said or TerminationMessage(exit_code=EXIT_PREEMPTED)).model_copy(update={"echo": True})
    return Replica(
        uid=pod.uid,
        stage=pod.stage,
        attempt=pod.attempt,
        index=pod.index,
        state=state_of(pod),
        exit_code=pod.exit_code,
        disrupted=pod.disrupted and pod.ended,
        evidence=pod.evidence,
        ended_at=held_until(pod)[0] if pod.ended else None,
        termination=said,
        silent_for=heard.silent_for if heard is not None else None,
        progress=(said and said.progress) or (log and log.progress) or None,
        waiting_since=_waiting_since(child) if waits else None,
        waiting_for=pod.waiting_for if waits else "",
        waits_in_vain=pod.waits_in_vain and waits,
        phase=log.phase if log is not None and not pod.ended else None,
        starting_for=_starting_for(pod, log),
    )


def _starting_for(pod: Pod, log: LogSight | None) -> timedelta | None:
    """How long a pod had run without steps when it wrote its last line, both by its node's clock.

    Only its log counts: if that shows no start-up phase, it may have taken steps long ago.
    """
    if not pod.running or pod.started is None or log is None or log.last_line is None:
        return None
    if log.progress is not None or log.phase is None or log.phase.phase not in STARTUP_PHASES:
        return None
    return log.last_line - parse_time(pod.started)


def state_of(pod: Pod) -> ReplicaState:
    if not pod.ended:
        return "Running"
    return "Succeeded" if pod.phase == "Succeeded" and pod.exit_code in (EXIT_DONE, None) else "Failed"


def _waiting_since(child: ChildJob | None) -> datetime | None:
    """Time since which the gang may run; time in a queue does not count."""
    if child is None or child.suspended:
        return None
    return parse_time(child.started or child.created)


def _without_a_pod(child: ChildJob, seen: set[int]) -> Iterator[Replica]:
    """Replicas of a Job without a pod: not created yet, or succeeded and deleted since."""
    completed = indexes(child.completed_indexes)
    to_come = not (child.failing or child.complete or child.deleting)
    for index in range(child.completions):
        if index in seen or (index not in completed and not to_come):
            continue
        done = index in completed
        yield Replica(
            uid=f"{child.uid}-{index}",
            stage=child.stage,
            attempt=child.attempt,
            index=index,
            state="Succeeded" if done else "Running",
            exit_code=EXIT_DONE if done else None,
            waiting_since=None if done else _waiting_since(child),
            waiting_for="" if done else "admission by its queue" if child.suspended else "its pod to be made",
        )


def _unseen(child: ChildJob) -> Replica:
    """A Job failed, and none of its pods exists to say why."""
    return Replica(uid=f"{child.uid}-unseen", stage=child.stage, attempt=child.attempt, index=0, state="Failed")


def _refused(snapshot: JobSnapshot, attempt: Attempt) -> Replica:
    stage, number = attempt
    sentence = f"the Job of {stage} was refused: {snapshot.refused[attempt]}"[:2000]
    return Replica(
        uid=f"{snapshot.job.metadata.uid}-{stage}-{number}-refused",
        stage=stage,
        attempt=number,
        index=0,
        state="Failed",
        exit_code=EXIT_NOT_RETRYABLE,
        termination=TerminationMessage(exit_code=EXIT_NOT_RETRYABLE, reason="InvalidSettings", message=sentence),
    )


def held_until(pod: Pod) -> tuple[datetime, bool]:
    """When an ended pod released its resources according to its object, and whether that is an estimate.

    The end of its last container; if the end of another container was not seen, the end of its trainer. If that was
    not seen either, the latest time at which it was alive: on its conditions, or when its deletion was requested.
    (That is its deletion time minus its grace period. A pod that already ended may be deleted at any later time.)
    """
    if pod.finished is not None:
        return parse_time(pod.finished), False
    if pod.trainer_finished is not None:
        return parse_time(pod.trainer_finished), True
    signs = [parse_time(sign) for sign in (pod.last_sign, pod.scheduled, pod.started) if sign]
    if pod.deleted is not None and pod.phase not in ("Succeeded", "Failed"):
        signs.append(parse_time(pod.deleted) - timedelta(seconds=pod.grace_seconds or 0))
    return max(signs), True


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
