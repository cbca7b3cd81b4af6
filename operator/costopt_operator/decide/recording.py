"""Pods -> the usage that the bill counts, and which pods' last words must be read before recording. Pure."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from costopt.accounting.bill import bill_of
from costopt.accounting.cells import Alike
from costopt.accounting.held import Held, write_held
from costopt.accounting.outcome import Attempt, AttemptEnd, outcome_in
from costopt.accounting.price_book import pin_prices
from costopt.names import TRAIN_STAGE
from costopt.plan.decide import Plan, is_final
from costopt.plan.ends import ends_of
from costopt.plan.stages import IN_FLIGHT
from costopt.schema.status import Bill
from costopt.schema.usage import MAX_RECORDS, Outcome, Resize, Usage, UsageRecord
from costopt_operator.decide.holding import HeldByPod, Holding, counted_until, ended, has_vanished, uid_of, whole
from costopt_operator.decide.meters import Cohort, cohort_of
from costopt_operator.decide.objects import ChildJob, Pod, parse_time
from costopt_operator.decide.observe import (
    JobSnapshot,
    fell_by_itself,
    is_of_an_earlier_admission,
)

MOST_BYTES = 200_000
"""Bytes of records per write; the others wait for the next write."""
RECORDS_KEPT = 64
"""Records kept unfolded in the status although they might be folded: enough to inspect, and a small object."""
LAST_WORDS_WITHIN = timedelta(minutes=1)
"""This long after its grace period, a deleted pod has ended and its node has reported it, or nobody ever will."""
VANISHED_KEPT = 64
"""Records of vanished pods that may come back, kept besides those."""


def usage_record(
    each: HeldByPod, snapshot: JobSnapshot, held_now: Holding, now: datetime, outcome: Outcome = "Running"
) -> UsageRecord:
    """What a pod holds or held. It counts as running until its outcome is known."""
    held, pod = each
    shape = held.shape
    return UsageRecord(
        uid=uid_of(held, pod),
        stage=shape.stage,
        attempt=shape.attempt,
        index=held.index,
        resources=dict(shape.resources),
        resizes=[Resize(since=since, resources=dict(quantities)) for since, quantities in shape.resizes],
        resources_estimated=shape.resources_estimated,
        product=shape.product,
        capacity_type=shape.capacity_type,
        node=pod.node if pod is not None else None,
        node_labels=dict(shape.node_labels),
        held_from=held.held_from,
        held_until=counted_until(held, now),
        end_estimated=held.estimated or held.begin_estimated,
        outcome=outcome,
        has_meter=not snapshot.job.spec.runs_command(shape.stage),
        metered=held_now.meters.of(held, outcome),
    )


def new_usage(snapshot: JobSnapshot, usage: Usage, held_now: Holding, decided: Plan, now: datetime) -> Usage:
    """`usage` with new ends, at current prices and with the outcome that `decided` gives them; and with what is held.

    At most as many records as the status has room for; the others wait until those are released and folded. A record
    also waits while its pod's attempt goes on, while its last words are still to come, and, if only its gang can
    report its time, while one of the gang still may: the record does not depend on who ended first.
    """
    known = ends_of(decided.status)
    speaking = _still_speaking(snapshot, held_now, now)
    made: list[UsageRecord] = []
    space = MOST_BYTES
    for each in sorted(ended(held_now), key=_by_attempt):
        if len(made) == room(usage) or space <= 0:
            break
        outcome = _outcome(each, snapshot, decided, [*usage.records, *made], known)
        if outcome is None or (each[1] is not None and each[1].uid in snapshot.unheard):
            continue
        if not held_now.meters.goes_by_its_gang(each[0], outcome) or cohort_of(each[0].shape) not in speaking:
            made.append(pin_prices(usage_record(each, snapshot, held_now, now, outcome), snapshot.book))
            space -= len(made[-1].model_dump_json(exclude_defaults=True))
    recorded = {record.uid for record in made}
    left = [held for held, pod in held_now.held if uid_of(held, pod) not in recorded]
    go_on = {(stage.name, stage.attempt) for stage in decided.status.stages if stage.state in IN_FLIGHT}
    go_on |= {(record.stage, record.attempt) for record in (*usage.records, *made) if has_vanished(record)}
    news = {
        "held": write_held(left),
        "seen": whole(now) if any(held.held_until is None for held in left) else None,
        "meters": held_now.meters.written(left, go_on),
    }
    return usage.model_copy(update={**news, "records": [*usage.records, *made]} if made else news)


def _still_speaking(snapshot: JobSnapshot, held_now: Holding, now: datetime) -> set[Cohort]:
    """The cohorts with a pod that still runs and may report its time. A pod whose node is lost never will; and a
    program of the user's own may say nothing, so it is waited for only if it has given a meter before."""
    speaking = {
        cohort_of(held.shape)
        for held, pod in held_now.held
        if pod is not None and held.held_until is None and _tells_its_time(snapshot, held.shape.stage)
        if pod.deleted is None or now < parse_time(pod.deleted) + LAST_WORDS_WITHIN
    }
    return speaking if snapshot.job.spec.command is None else speaking & held_now.meters.first.keys()


def _tells_its_time(snapshot: JobSnapshot, stage: str) -> bool:
    return stage == TRAIN_STAGE or snapshot.job.spec.num_replicas(stage) > 1


def _by_attempt(each: HeldByPod) -> tuple[object, ...]:
    held, pod = each
    return (held.shape.attempt, held.held_until, uid_of(held, pod))


def _outcome(
    each: HeldByPod,
    snapshot: JobSnapshot,
    decided: Plan,
    records: Sequence[UsageRecord],
    known: Mapping[Attempt, AttemptEnd | None],
) -> Outcome | None:
    held, pod = each
    attempt = (held.shape.stage, held.shape.attempt)
    child = snapshot.child_job(attempt)
    # While a Job goes on, we may also end its attempt; a complete Job was finished by its other pods.
    if (attempt not in decided.ends or (child is not None and child.complete)) and (
        _vanished_before_this_admission(held, child) if pod is None else is_of_an_earlier_admission(pod, child)
    ):
        return "Suspended"  # by the queue; the attempt goes on with other pods
    return outcome_in(attempt, ended_well=held.ended_well, ends=decided.ends, records=records, known=known)


def _vanished_before_this_admission(held: Held, child: ChildJob | None) -> bool:
    if child is None or child.failing or child.deleting or held.ended_well:
        return False
    if child.suspended or child.complete:
        return True
    return child.started is not None and held.held_from < parse_time(child.started)


def room(usage: Usage) -> int:
    """How many more records the status has room for."""
    return max(0, MAX_RECORDS - len(usage.records))


def _unrecorded(snapshot: JobSnapshot, usage: Usage) -> list[Pod]:
    """Ended pods that held something and have no record yet."""
    known = {record.uid for record in usage.records}
    return [pod for pod in snapshot.pods if pod.ended and pod.has_finalizer and pod.scheduled and pod.uid not in known]


def last_speakers(snapshot: JobSnapshot) -> list[Pod]:
    """Ended pods whose logs may hold progress found nowhere else: the first of each training gang, and the one that
    failed first."""
    if is_final(snapshot.status):
        return []
    ended = [pod for pod in _unrecorded(snapshot, snapshot.status.usage or Usage()) if pod.stage == TRAIN_STAGE]
    speakers: dict[str, Pod] = {}
    unrecorded = {pod.uid for pod in ended}
    for attempt in {pod.attempt for pod in ended}:
        gang = snapshot.gang((TRAIN_STAGE, attempt))
        fallen = [pod for pod in gang if pod.uid in unrecorded and fell_by_itself(pod)]
        first = min(gang, key=_by_index)
        speakers |= {pod.uid: pod for pod in (first, *sorted(fallen, key=_by_end)[:1])}
    there = {pod.uid for pod in ended if pod.started is not None and not _told_its_progress(pod)}
    return [pod for uid, pod in speakers.items() if uid in there]


def leaving_speakers(snapshot: JobSnapshot, stopped: Iterable[ChildJob] = ()) -> list[Pod]:
    """Running pods that are being deleted, or soon will be with their Jobs in `stopped`, and report their progress only
    in the log: the first of each training gang with a command of its own. (The built-in trainer uses the termination
    message.)"""
    if snapshot.job.spec.command is None or is_final(snapshot.status):
        return []
    attempts = {(child.stage, child.attempt) for child in stopped}
    first = {at: min(gang, key=_by_index) for at, gang in snapshot.gangs.items() if at[0] == TRAIN_STAGE}
    return [
        pod
        for at, pod in first.items()
        if pod.running and not pod.ended and (pod.deleted is not None or at in attempts)
    ]


def _told_its_progress(pod: Pod) -> bool:
    return pod.said is not None and pod.said.progress is not None


def ended_unrecorded(snapshot: JobSnapshot, held_now: Holding) -> Iterator[Pod | None]:
    """Ended pods without a record, of attempts of which no pod runs."""
    return (pod for held, pod in ended(held_now) if (held.shape.stage, held.shape.attempt) not in snapshot.live)


def foldable(snapshot: JobSnapshot, usage: Usage) -> set[str]:
    """Uids of the oldest records that may be folded: those of pods that are gone or released, which are never recorded
    again.

    A pod that is no longer seen may come back as long as its batch Job is known: if it had vanished, it is counted on
    from its record; if its end was seen but its release was not, its record is found. So the latest of those records
    are kept too. If its record is folded anyway, the sums say up to when they count it (see `folded_until`).
    """
    there = {pod.uid for pod in snapshot.pods}
    held_back = {pod.uid for pod in snapshot.pods if pod.has_finalizer}
    known = {(child.stage, child.attempt) for child in snapshot.child_jobs}
    known |= {(job.stage, job.attempt) for job in snapshot.status.batch_jobs or ()}
    may_return = [each.uid for each in usage.records if each.uid not in there and (each.stage, each.attempt) in known]
    kept = set(may_return[-VANISHED_KEPT:])
    free = [record.uid for record in usage.records if record.uid not in held_back | kept]
    return set(free[: max(0, len(usage.records) - len(kept) - RECORDS_KEPT)])


def _by_index(pod: Pod) -> tuple[int, str]:
    return (pod.index, pod.uid)


def _by_end(pod: Pod) -> tuple[str, str]:
    return (pod.finished or pod.last_sign, pod.uid)


def bill(snapshot: JobSnapshot, usage: Usage, held_now: Holding, now: datetime) -> Bill:
    """The bill so far: what is recorded, what has ended since, and what runs, counted up to some seconds ago.

    Pods that held the same for the same time share one record, instead of thousands.
    """
    known = {record.uid for record in usage.records}
    alike: dict[Hashable, list[HeldByPod]] = {}
    for held, pod in held_now.held:
        if uid_of(held, pod) not in known:
            estimated = held.estimated or held.begin_estimated
            key = (id(held.shape), held.held_from, held.held_until, estimated, held_now.meters.of(held))
            alike.setdefault(key, []).append((held, pod))
    others = [Alike(usage_record(each[0], snapshot, held_now, now), len(each)) for each in alike.values()]
    return bill_of(usage, others, snapshot.book)
