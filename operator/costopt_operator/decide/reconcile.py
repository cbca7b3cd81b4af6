"""One reconcile of a job, `reconcile(snapshot, history, now) -> Decision`: what to write, and what to do then. Pure.

    observe ──▶ plan ──▶ status (with every new usage record) ──▶ finalizers to release, gangs to stop and start, events

The status is written before anything else, so a repeat after a crash is harmless. Only decisions are written
immediately. A first sign of life waits a moment for others, a record somewhat longer for those of the gang's other
pods, and figures that only grow are written twice a minute.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from costopt.accounting.fold import fold
from costopt.names import QUEUE_NAME_LABEL, TRAIN_STAGE
from costopt.plan.actions import StartGang, StopGang, StopReason
from costopt.plan.billed import with_bill
from costopt.plan.decide import is_final, plan
from costopt.schema.pods import DEFAULT_GRACE_PERIOD_SECONDS
from costopt.schema.status import MAX_BATCH_JOBS, BatchJob, Bill, EarlierJob, JobStatus, StageStatus
from costopt.schema.usage import Usage
from costopt_operator.decide.events import Event, events_between
from costopt_operator.decide.fitting import fitted
from costopt_operator.decide.holding import Holding, Remembered, holding, remembered
from costopt_operator.decide.leftovers import leftovers
from costopt_operator.decide.objects import ChildJob, Pod, parse_time
from costopt_operator.decide.observe import LARGEST_STATUS, JobSnapshot, observe
from costopt_operator.decide.recording import RECORDS_KEPT, bill, ended_unrecorded, foldable, new_usage, room

Urgency = Literal["None", "Figures", "Records", "Soon", "Now"]

SOON = timedelta(seconds=2)
"""Upper bound on delaying a first sign of life, so that several are written together."""
RECORDS_WITHIN = timedelta(seconds=10)
"""Upper bound on delaying the record of a pod that exited 0, so that those of its gang are written together; its
finalizer is kept until then. Other pods wait until it is known what their attempt counts as, at most the grace period
of their gang."""
RECORDABLE_WITHIN = timedelta(seconds=1)
"""Interval of retries for an attempt whose end cannot be recorded yet, if no event comes earlier."""
FIGURES_EVERY = timedelta(seconds=30)
"""Interval between status writes in which only progress, bill and phases of stages have changed."""
_HALTS: frozenset[StopReason] = frozenset(
    {"SuspendRequested", "DeletionRequested", "BudgetExceeded", "PriceUnknown", "DeadlineExceeded"}
)
"""Why a whole job is stopped."""
BROKEN_GANG_GRACE_SECONDS = 10
"""Grace of pods whose gang is broken: they have nothing left to save, and hold their devices meanwhile."""


@dataclass(frozen=True)
class WriteHistory:
    """What the operator remembers about its status writes; empty after a restart, which costs one write at most."""

    last_written: datetime | None = None
    noticed: datetime | None = None
    """When a change that is not yet written was first noticed."""
    remembered: Remembered | None = None
    """What was held at the last reconcile; None: as the status says."""


@dataclass(frozen=True)
class Decision:
    """One decision. The shell writes `status` first and does nothing else if that fails."""

    status: JobStatus | None = None
    """The status to write; None: nothing is written now."""
    only_figures: bool = False
    """Only figures and phases have changed, so the write can wait under load."""
    noticed: datetime | None = None
    """To be remembered (see WriteHistory)."""
    remembered: Remembered | None = None
    """Likewise."""
    releases: tuple[Pod, ...] = ()
    """Pods whose finalizer is to be released: recorded, or without anything to record."""
    start: tuple[StartGang, ...] = ()
    train_attempt: int = 0
    """Attempt of the training stage as decided: variants read the settings made for it."""
    execution: int = 1
    publish_admitted_settings: tuple[ChildJob, ...] = ()
    """Training Jobs that a queue has admitted: their pods wait for settings that name the admitted number."""
    ensure_service: tuple[ChildJob, ...] = ()
    """Running Jobs of more than one replica: they need their Service."""
    delete_jobs: tuple[ChildJob, ...] = ()
    delete_pods: tuple[tuple[Pod, int | None], ...] = ()
    """Pods to delete, each with its grace period in seconds (None: its own)."""
    leftovers: tuple[ChildJob, ...] = ()
    """Batch Jobs of old attempts that are no longer needed; it does no harm if they stay."""
    force_delete: tuple[Pod, ...] = ()
    """Pods to delete by force if their node is gone."""
    events: tuple[Event, ...] = ()
    delete: bool = False
    """The job's time to live is over."""
    requeue_after: timedelta | None = None


def reconcile(snapshot: JobSnapshot, history: WriteHistory, now: datetime) -> Decision:
    """What to do about the job as it is now."""
    usage = snapshot.status.usage or Usage()
    kept = fold(usage, foldable(snapshot, usage), dated=snapshot.job.spec.price_book_name is not None)
    # What has been counted stays counted, also if the clock is set back or another's was ahead.
    until = max(now, usage.seen or now)
    held_now = holding(snapshot, kept, history.remembered or remembered(usage), until)
    if _cannot_record_yet(snapshot, kept, held_now):
        in_status = {record.uid for record in usage.records}
        releases = tuple(pod for pod in snapshot.pods if _may_be_released(pod, in_status))
        so_far = bill(snapshot, kept, held_now, until)
        delete_jobs, delete_pods = _stops_for_the_whole_job(snapshot, so_far, now)
        return Decision(
            releases=releases,
            noticed=history.noticed,
            remembered=held_now.remembered(usage, until),
            delete_jobs=delete_jobs,
            delete_pods=delete_pods,
            requeue_after=RECORDABLE_WITHIN,
        )
    so_far = bill(snapshot, kept, held_now, until)
    decided = plan(observe(snapshot, so_far, now), now)
    recorded = new_usage(snapshot, kept, held_now, decided, until)
    # What an end was counted as says what its time was for: the bill of new records is another.
    whole_bill = so_far if recorded.records is kept.records else bill(snapshot, recorded, held_now, until)
    status = decided.status.model_copy(update={"usage": recorded if recorded != Usage() else None})
    status = with_bill(status, whole_bill, snapshot.job.spec)
    if status.continues_from_step is not None and status.earlier_job is None:
        status = status.model_copy(update={"earlier_job": snapshot.earlier or EarlierJob(known=False)})
    batch_jobs = _batch_jobs(snapshot)
    if not _uids(batch_jobs) <= _uids(snapshot.status.batch_jobs):
        status = status.model_copy(update={"batch_jobs": batch_jobs})
    status = fitted(status, min(snapshot.room, LARGEST_STATUS))

    urgency = _urgency(snapshot.status, status)
    if snapshot.deleting and urgency in ("Records", "Soon"):
        urgency = "Now"  # somebody waits for its pods to be let go
    write, wait = _when(urgency, history, now)
    # What need not be remembered any more is worth no write of its own.
    status = status.model_copy(update={"batch_jobs": batch_jobs or None})
    written = status if write else snapshot.status
    in_status = {record.uid for record in (written.usage.records if written.usage else [])}
    training = status.stage(TRAIN_STAGE)
    delete_jobs, delete_pods = _stops(snapshot, decided.stop)
    return Decision(
        status=status if write else None,
        only_figures=write and urgency == "Figures",
        noticed=None if write or urgency in ("None", "Figures") else history.noticed or now,
        remembered=held_now.remembered(written.usage or Usage(), until),
        releases=tuple(pod for pod in snapshot.pods if _may_be_released(pod, in_status)),
        start=decided.start,
        train_attempt=training.attempt if training else 0,
        execution=max(1, status.execution),
        publish_admitted_settings=() if snapshot.deleting else _admitted(snapshot),
        ensure_service=() if snapshot.deleting else _gangs_that_meet(snapshot, status),
        delete_jobs=delete_jobs,
        leftovers=() if snapshot.deleting else leftovers(snapshot, written),
        delete_pods=delete_pods,
        force_delete=_to_force_delete(snapshot, now),
        events=tuple(events_between(snapshot.status, status)) if write else (),
        delete=decided.delete
        and not snapshot.deleting
        and is_final(written)
        and not any(pod.has_finalizer for pod in snapshot.pods),
        requeue_after=_earliest(decided.requeue_after, wait, _force_delete_in(snapshot, now)),
    )


def _stops_for_the_whole_job(
    snapshot: JobSnapshot, so_far: Bill, now: datetime
) -> tuple[tuple[ChildJob, ...], tuple[tuple[Pod, int | None], ...]]:
    """What a limit of the job stops also while nothing can be written: should finalizers never go, it is kept."""
    decided = plan(observe(snapshot, so_far, now), now)
    return _stops(snapshot, tuple(stop for stop in decided.stop if stop.reason in _HALTS))


def _cannot_record_yet(snapshot: JobSnapshot, usage: Usage, held_now: Holding) -> bool:
    """An attempt has ended whose records must wait. What it counts as is written together with them, so that waits too:
    for last words, which come or are given up in seconds, or until there is room for another record."""
    ended = list(ended_unrecorded(snapshot, held_now))
    return any(pod is not None and pod.uid in snapshot.unheard for pod in ended) or bool(ended and not room(usage))


def _batch_jobs(snapshot: JobSnapshot) -> list[BatchJob]:
    """The batch Jobs by whose uids pods are known to be this job's: all that may still make pods, or have some left
    that are not recorded. Of more than there is room for, the latest."""
    active = (child for child in snapshot.child_jobs if not (child.failing or child.complete))
    known = {child.uid: (child.attempt, child.stage) for child in active}
    known |= {pod.gang_uid: (pod.attempt, pod.stage) for pod in snapshot.pods if pod.has_finalizer}
    latest = sorted((attempt, stage, uid) for uid, (attempt, stage) in known.items())[-MAX_BATCH_JOBS:]
    return [BatchJob(uid=uid, stage=stage, attempt=attempt) for attempt, stage, uid in latest]


def _uids(batch_jobs: Iterable[BatchJob] | None) -> set[str]:
    return {entry.uid for entry in batch_jobs or ()}


def _urgency(before: JobStatus, after: JobStatus) -> Urgency:
    if after == before:
        return "None"
    if _decisive(before) != _decisive(after):
        return "Now"
    plain, quiet = _plain(before), _plain(after)
    if _uids(after.batch_jobs) - _uids(before.batch_jobs):
        return "Soon"
    if plain == quiet:
        return "Figures"
    if plain.model_copy(update={"usage": quiet.usage}) != quiet or is_final(after):
        return "Soon"
    return "Records" if _new_records(before, after) < RECORDS_KEPT else "Soon"


def _new_records(before: JobStatus, after: JobStatus) -> int:
    known, there = ({record.uid for record in (status.usage or Usage()).records} for status in (before, after))
    return len(there - known)


def _decisive(status: JobStatus) -> object:
    """Fields whose change is written immediately."""
    started = {"Starting": "Begun", "Running": "Begun"}
    stages = [(stage.name, started.get(stage.state, stage.state), stage.attempt) for stage in status.stages]
    begun = {"Pending": "Begun", "BackingOff": "Begun", "Training": "Begun", "Compressing": "Begun"}
    conditions = [(item.type, item.status, begun.get(item.reason, item.reason)) for item in status.conditions]
    return (stages, [item for item in conditions if item[0] != "Priced"], status.failure, status.execution)


def _plain(status: JobStatus) -> JobStatus:
    """The status without the figures and phases that go on by themselves, what is held, batch Jobs, and a variant's
    first sign of life."""
    conditions = [item.model_copy(update={"observed_generation": None}) for item in status.conditions]
    quiet: dict[str, Any] = {"bill": None, "progress": None, "conditions": conditions, "observed_generation": None}
    quiet["batch_jobs"] = None
    if status.usage is not None:
        usage = status.usage.model_copy(update={"held": [], "seen": None, "meters": []})
        quiet["usage"] = usage if usage != Usage() else None
    stages = [stage.model_copy(update={"phase": None}) for stage in status.stages]
    quiet["stages"] = [_begun(stage) if stage.name != TRAIN_STAGE else stage for stage in stages]
    return status.model_copy(update=quiet)


def _begun(stage: StageStatus) -> StageStatus:
    return stage.model_copy(update={"state": "Running"}) if stage.state == "Starting" else stage


def _when(urgency: Urgency, history: WriteHistory, now: datetime) -> tuple[bool, timedelta | None]:
    """Whether to write now; if not, how long to wait."""
    if urgency == "None":
        return False, None
    if urgency == "Now":
        return True, None
    if urgency == "Figures":
        due = (history.last_written or now - FIGURES_EVERY) + FIGURES_EVERY
    else:
        due = (history.noticed or now) + (SOON if urgency == "Soon" else RECORDS_WITHIN)
    return (True, None) if now >= due else (False, due - now)


def _may_be_released(pod: Pod, recorded: set[str]) -> bool:
    """Recorded, or it never reached a node, so that there is nothing to record."""
    return pod.has_finalizer and pod.ended and (pod.uid in recorded or pod.scheduled is None)


def _stops(
    snapshot: JobSnapshot, stops: tuple[StopGang, ...]
) -> tuple[tuple[ChildJob, ...], tuple[tuple[Pod, int | None], ...]]:
    """The batch Jobs and pods to delete. A Job that has failed, or is bound to, ends its pods and keeps their logs."""
    jobs: list[ChildJob] = []
    pods: list[tuple[Pod, int | None]] = []
    for stop in stops:
        child = snapshot.child_job((stop.stage, stop.attempt))
        most_grace = _most_grace(stop, snapshot)
        if child and not (child.deleting or child.complete or _fails_by_itself(snapshot, child)):
            jobs.append(child)
        for pod in snapshot.gang((stop.stage, stop.attempt)):
            if pod.ended or (snapshot.deleting and child is None and not pod.orphan):
                continue  # its batch Job is deleted, which ends it, or was made nobody's, so that it lives on
            if stop.checkpoint and most_grace is not None and (pod.grace_seconds or most_grace + 1) > most_grace:
                pods.append((pod, most_grace))
            elif stop.checkpoint and pod.deleted is None and (child is None or child.complete):
                pods.append((pod, None))
            elif not stop.checkpoint and (pod.grace_seconds is None or pod.grace_seconds > BROKEN_GANG_GRACE_SECONDS):
                pods.append((pod, BROKEN_GANG_GRACE_SECONDS))
    return tuple(jobs), tuple(pods)


def _most_grace(stop: StopGang, snapshot: JobSnapshot) -> int | None:
    """Seconds that pods get instead of their own longer grace period; None: their own."""
    overrides, most = snapshot.job.spec.pods, stop.most_grace_seconds
    own = overrides.termination_grace_period_seconds if overrides else DEFAULT_GRACE_PERIOD_SECONDS
    return most if most is not None and own > most else None


def _fails_by_itself(snapshot: JobSnapshot, child: ChildJob) -> bool:
    """The Job has failed, or one of its pods has and the Job controller, which retries nothing, has yet to say so."""
    since = child.started or child.created
    return child.failing or any(
        pod.phase == "Failed" and pod.created >= since and not child.suspended
        for pod in snapshot.gang((child.stage, child.attempt))
    )


def _is_current(snapshot: JobSnapshot, child: ChildJob) -> bool:
    stage = snapshot.status.stage(child.stage)
    over = child.failing or child.complete or child.deleting
    return stage is not None and stage.attempt == child.attempt and not over and stage.state in ("Starting", "Running")


def _admitted(snapshot: JobSnapshot) -> tuple[ChildJob, ...]:
    if QUEUE_NAME_LABEL not in snapshot.job.metadata.labels:
        return ()
    return tuple(
        child
        for child in snapshot.child_jobs
        if child.stage == TRAIN_STAGE and not child.suspended and _is_current(snapshot, child)
    )


def _gangs_that_meet(snapshot: JobSnapshot, status: JobStatus) -> tuple[ChildJob, ...]:
    if is_final(status):
        return ()
    return tuple(child for child in snapshot.child_jobs if child.completions > 1 and _is_current(snapshot, child))


def _to_force_delete(snapshot: JobSnapshot, now: datetime) -> tuple[Pod, ...]:
    left = ((pod, _until_force_delete(pod, snapshot, now)) for pod in snapshot.pods)
    return tuple(pod for pod, time in left if time is not None and time <= timedelta(0))


def _force_delete_in(snapshot: JobSnapshot, now: datetime) -> timedelta | None:
    left = (_until_force_delete(pod, snapshot, now) for pod in snapshot.pods)
    return _earliest(*(max(time, timedelta(seconds=15)) for time in left if time is not None))


def _until_force_delete(pod: Pod, snapshot: JobSnapshot, now: datetime) -> timedelta | None:
    """Time until a pod that does not end may be deleted by force; None: it may not be."""
    seconds = snapshot.job.spec.restarts.force_delete_after_seconds
    if seconds is None or pod.deleted is None or pod.ended or pod.node is None:
        return None
    return parse_time(pod.deleted) + timedelta(seconds=seconds) - now


def _earliest(*waits: timedelta | None) -> timedelta | None:
    return min((wait for wait in waits if wait is not None), default=None)
