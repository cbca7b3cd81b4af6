"""Pods -> the usage that the bill counts, and whose last words are still to be heard before it is recorded. Pure."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime

from costopt.accounting.bill import bill_of
from costopt.accounting.cells import Alike
from costopt.accounting.exact import plain
from costopt.accounting.outcome import Attempt, AttemptEnd, outcome_in
from costopt.accounting.price_book import pin_prices
from costopt.names import TRAIN_STAGE
from costopt.plan.decide import Plan, is_final
from costopt.plan.ends import ends_of
from costopt.schema.replica import Progress
from costopt.schema.status import Bill
from costopt.schema.usage import MAX_RECORDS, Outcome, Usage, UsageRecord
from costopt_operator.node_class import UNKNOWN_NODE
from costopt_operator.observe import (
    World,
    fell_by_itself,
    held_until,
    is_of_an_earlier_admission,
    state_of,
)
from costopt_operator.sightings import Pod, parse_time

RECORDS_KEPT = 64
"""Records kept singly in the status although they might be folded: enough to look into, and a small object."""


def usage_record(pod: Pod, world: World, now: datetime, outcome: Outcome = "Running") -> UsageRecord:
    """What the pod holds, or has held. It must have reached a node. Until its outcome is known it counts as running."""
    stage = pod.stage
    resources = pod.requests or {
        name: plain(quantity) for name, quantity in world.job.spec.resources_of(stage).effective().items()
    }
    node = world.nodes.get(pod.node or "", UNKNOWN_NODE)
    held_from = parse_time(pod.scheduled or pod.started or pod.created)
    # A pod's times are in whole seconds: one that runs is counted likewise, so that a bill never shrinks at its end.
    end, estimated = held_until(pod) if pod.ended else (max(now.replace(microsecond=0), held_from), False)
    progress = _progress_of(pod, world)
    return UsageRecord(
        uid=pod.uid,
        stage=stage,
        attempt=pod.attempt,
        index=pod.index,
        resources=dict(resources),
        product=node.product,
        capacity_type=node.capacity_type,
        node=pod.node,
        node_labels=dict(node.labels),
        held_from=held_from,
        held_until=end,
        end_estimated=estimated,
        outcome=outcome,
        has_meter=world.job.spec.train.command is None,
        metered=progress.metered if progress else None,
    )


def _progress_of(pod: Pod, world: World) -> Progress | None:
    """What the pod said at its end, what its log says, or else that of another of its gang: they go in step, so one
    meter is like another."""
    if pod.said is not None and pod.said.progress is not None:
        return pod.said.progress
    log = world.logs.get(pod.uid)
    return (log and log.progress) or world.progress.get((pod.stage, pod.attempt))


def new_usage(world: World, usage: Usage, decided: Plan, now: datetime) -> Usage:
    """`usage` with the ends that are news, at the prices of now, as what `decided` counts them.

    At most as many records as the status has room for; the others wait until those are released and folded. So does
    that of a pod whose attempt goes on, or whose last words are still to come.
    """
    known = ends_of(decided.status)
    made: list[UsageRecord] = []
    for pod in sorted(_unrecorded(world, usage), key=lambda pod: (pod.attempt, *_by_end(pod))):
        if len(made) == room(usage):
            break
        outcome = _outcome(pod, world, decided, [*usage.records, *made], known)
        if outcome is not None and pod.uid not in world.unheard:
            made.append(pin_prices(usage_record(pod, world, now, outcome), world.book))
    return usage.model_copy(update={"records": [*usage.records, *made]}) if made else usage


def _outcome(
    pod: Pod, world: World, decided: Plan, records: Sequence[UsageRecord], known: Mapping[Attempt, AttemptEnd | None]
) -> Outcome | None:
    attempt = (pod.stage, pod.attempt)
    if attempt not in decided.ends and is_of_an_earlier_admission(pod, world.child_job(attempt)):
        return "Suspended"  # by the queue; the attempt goes on with other pods
    return outcome_in(attempt, ended_well=state_of(pod) == "Succeeded", ends=decided.ends, records=records, known=known)


def room(usage: Usage) -> int:
    """How many records the status has room for besides those."""
    return max(0, MAX_RECORDS - len(usage.records))


def _unrecorded(world: World, usage: Usage) -> list[Pod]:
    """Ended pods that held something which stands in no record yet."""
    known = {record.uid for record in usage.records}
    return [pod for pod in world.pods if pod.ended and pod.has_finalizer and pod.scheduled and pod.uid not in known]


def last_speakers(world: World) -> list[Pod]:
    """Ended pods whose logs may hold progress that nothing else tells: of each training gang the first, and the one
    that failed first."""
    if is_final(world.status):
        return []
    ended = [pod for pod in _unrecorded(world, world.status.usage or Usage()) if pod.stage == TRAIN_STAGE]
    speakers: dict[str, Pod] = {}
    unrecorded = {pod.uid for pod in ended}
    for attempt in {pod.attempt for pod in ended}:
        gang = world.gang((TRAIN_STAGE, attempt))
        fallen = [pod for pod in gang if pod.uid in unrecorded and fell_by_itself(pod)]
        first = min(gang, key=_by_index)
        speakers |= {pod.uid: pod for pod in (first, *sorted(fallen, key=_by_end)[:1])}
    there = {pod.uid for pod in ended if pod.started is not None and not _told_its_progress(pod)}
    return [pod for uid, pod in speakers.items() if uid in there]


def leaving_speakers(world: World) -> list[Pod]:
    """Running pods that are being deleted and whose log alone will tell how far they came: the first of each training
    gang with a command of its own. (The built-in trainer's termination message says it.)"""
    if world.job.spec.train.command is None or is_final(world.status):
        return []
    first = [min(gang, key=_by_index) for (stage, _), gang in world.gangs.items() if stage == TRAIN_STAGE]
    return [pod for pod in first if pod.running and not pod.ended and pod.deleted is not None]


def _told_its_progress(pod: Pod) -> bool:
    return pod.said is not None and pod.said.progress is not None


def ended_unrecorded(world: World, usage: Usage) -> Iterator[Pod]:
    """Pods without a record of attempts none of whose pods runs any more."""
    return (pod for pod in _unrecorded(world, usage) if (pod.stage, pod.attempt) not in world.live)


def foldable(world: World, usage: Usage) -> set[str]:
    """Uids of the oldest records that may be folded: of pods that are gone or released, for those are never recorded
    again."""
    held_back = {pod.uid for pod in world.pods if pod.has_finalizer}
    free = [record.uid for record in usage.records if record.uid not in held_back]
    return set(free[: max(0, len(usage.records) - RECORDS_KEPT)])


def _by_index(pod: Pod) -> tuple[int, str]:
    return (pod.index, pod.uid)


def _by_end(pod: Pod) -> tuple[str, str]:
    return (pod.finished or pod.last_sign, pod.uid)


def bill(world: World, usage: Usage, now: datetime) -> Bill:
    """The bill so far: what is recorded, what has ended since, and what runs, counted up to now.

    Of pods that have held the same for the same time one record is made, not thousands.
    """
    known = {record.uid for record in usage.records}
    alike: dict[Hashable, list[Pod]] = {}
    for pod in world.pods:
        if pod.scheduled is not None and pod.uid not in known and (pod.has_finalizer or not pod.ended):
            alike.setdefault(_held(pod, world), []).append(pod)
    others = [Alike(usage_record(pods[0], world, now), len(pods)) for pods in alike.values()]
    return bill_of(usage, others, world.book)


def _held(pod: Pod, world: World) -> Hashable:
    """All that the usage record of a pod says, at one moment, besides which replica it is of and where that was."""
    node = world.nodes.get(pod.node or "", UNKNOWN_NODE)
    progress = _progress_of(pod, world)
    return (
        pod.stage,
        pod.attempt,
        pod.scheduled,
        held_until(pod) if pod.ended else None,
        tuple(pod.requests.items()),
        node.product,
        node.capacity_type,
        progress.metered if progress else None,
    )
