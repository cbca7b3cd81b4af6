"""Who holds what, from the pods and from memory: a pod that vanishes is recorded from what was seen. Pure.

Once a pod is seen on a node, the status keeps what it holds until its record is written. So nothing that others do
to the pod (its finalizer, its labels, a forced deletion, a resize, the loss of its node) reduces the bill.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from costopt.accounting.fold import folded_until
from costopt.accounting.held import Held, Shape, mark_of, read_held
from costopt.accounting.outcome import Attempt
from costopt.accounting.quantities import bounded
from costopt.schema.base import decimal
from costopt.schema.usage import ReplicaMeter, Usage, UsageRecord
from costopt_operator.decide.meters import Meters, cohort_of, heard, meters_of
from costopt_operator.decide.node_pricing import UNKNOWN_NODE, NodeClass
from costopt_operator.decide.objects import ChildJob, Pod, indexes, parse_time
from costopt_operator.decide.observe import JobSnapshot, held_until, state_of

COUNTED_LATE = timedelta(seconds=5)
"""Running pods are counted up to this long ago: the end of a pod is known only when its node reports it."""
STARTED_WITHIN = timedelta(seconds=10)
"""The Job controller may write a Job's start time this long after creating its pods."""
VANISHED = "vanished"
"""Prefix of the record id of a vanished pod; its mark, begin and end follow."""


HeldByPod = tuple[Held, Pod | None]
"""With its pod; None: it has vanished."""


@dataclass(frozen=True)
class Remembered:
    """What is known in addition to the current pods."""

    held: Mapping[str, Held]
    """By mark: what was held, and not recorded, at the last reconcile."""
    seen: datetime | None = None
    """Time of that."""
    meters: Meters = field(default_factory=Meters)
    recorded: int = 0
    """Number of records then, folded ones included."""


@dataclass(frozen=True)
class Holding:
    """All that has no record yet."""

    held: tuple[HeldByPod, ...]
    meters: Meters

    def remembered(self, usage: Usage, now: datetime) -> Remembered:
        """What to remember of it once `usage` is written."""
        recorded = {record.uid for record in usage.records}
        left = {each.mark: each for each, pod in self.held if uid_of(each, pod) not in recorded}
        meters = self.meters.kept(left.values(), map(cohort_of, usage.meters))
        return Remembered(left, whole(now), meters, _records_of(usage))


def whole(moment: datetime) -> datetime:
    """The moment in whole seconds, as the API server writes times."""
    return moment.replace(microsecond=0)


def remembered(usage: Usage) -> Remembered:
    """What the status remembers."""
    held = {held.mark: held for held in read_held(usage.held)}
    return Remembered(held, usage.seen, meters_of(usage.meters), _records_of(usage))


def _records_of(usage: Usage) -> int:
    return len(usage.records) + usage.folded_records


def uid_of(held: Held, pod: Pod | None) -> str:
    """The id of its record. A pod may vanish more than once, even within a second."""
    if pod is not None:
        return pod.uid
    until = held.held_until or held.held_from
    return f"{VANISHED}-{held.mark}-{held.held_from:%Y%m%dT%H%M%S}-{until:%Y%m%dT%H%M%S}"


def counted_until(held: Held, now: datetime) -> datetime:
    """Time up to which it is counted: its end, or some seconds ago if it runs."""
    return held.held_until or max(held.held_from, whole(now) - COUNTED_LATE)


def holding(snapshot: JobSnapshot, usage: Usage, known: Remembered, now: datetime) -> Holding:
    """What is held now, and what was held and is not recorded yet, from the pods and from `known`.

    `usage` is that of the status; parts of it may have been folded meanwhile.
    """
    written = snapshot.status.usage or Usage()
    if _is_older(known, written):
        known = remembered(written)
    records = {record.uid: record for record in (*written.records, *usage.records)}
    counted = _Counted(records.values(), written)
    billed = _billed(written)
    shapes = _Shapes(snapshot, known, now)
    held: list[HeldByPod] = []
    there: set[str] = set()
    for pod in snapshot.pods:
        mark = mark_of(pod.uid)
        there.add(mark)
        before = known.held.get(mark)
        if pod.uid in records or (before is None and not _is_news(pod)):
            continue
        shape = shapes.of(pod, before)
        if before is None:
            one = Held(shape, pod.index, mark, min(whole(now), _placed(pod)))
        else:
            one = Held(shape, before.index, mark, before.held_from, begin_estimated=before.begin_estimated)
        one = counted.after(one, pod, before)
        held.append((_ended(one, pod, billed.get(mark), now) if pod.ended else one, pod))
    # A record may have been written although the response was lost.
    there |= {mark_of(uid) for uid in records}
    done = {(child.stage, child.attempt): _Done(child) for child in snapshot.child_jobs}
    for mark, before in known.held.items():
        if mark not in there:
            of_job = done.get((before.shape.stage, before.shape.attempt))
            gone = _gone(before, known.seen, done=of_job is not None and of_job.by(before))
            if uid_of(gone, None) not in records:
                held.append((gone, None))
    return Holding(tuple(held), heard(known.meters, held, snapshot))


def _is_older(known: Remembered, written: Usage) -> bool:
    """A write succeeded but its response was lost: some of `known` is already recorded, or billed for longer."""
    seen = written.seen is not None and (known.seen is None or known.seen < written.seen)
    return seen or known.recorded < _records_of(written)


def _is_news(pod: Pod) -> bool:
    """It holds something, or our finalizer says that it did and has no record."""
    return pod.scheduled is not None and (pod.has_finalizer or not pod.ended)


def _placed(pod: Pod) -> datetime:
    return parse_time(pod.scheduled or pod.started or pod.created)


class _Counted:
    """Time up to which pods without their own record are counted: they vanished, and are back."""

    def __init__(self, records: Iterable[UsageRecord], usage: Usage) -> None:
        self._usage = usage
        self._vanished: dict[str, datetime] = {}
        for record in records:
            if has_vanished(record):
                mark = record.uid.split("-")[1]
                self._vanished[mark] = max(self._vanished.get(mark, record.held_until), record.held_until)

    def after(self, one: Held, pod: Pod, before: Held | None) -> Held:
        """What it holds after the time already counted. A remembered pod was never folded; any other may have been,
        so its begin is estimated where that matters."""
        until = self._vanished.get(one.mark)
        if until is None and before is None:
            until = folded_until(self._usage, pod.stage, pod.attempt)
            one = replace(one, begin_estimated=until is not None and until > one.held_from)
        return replace(one, held_from=max(one.held_from, until or one.held_from))


def has_vanished(record: UsageRecord) -> bool:
    """Its pod had vanished."""
    return record.uid.startswith(f"{VANISHED}-")


def _billed(usage: Usage) -> dict[str, datetime]:
    """Time up to which the last written bill counts each pod: a bill never decreases."""
    return {held.mark: counted_until(held, usage.seen or held.held_from) for held in read_held(usage.held)}


def _ended(one: Held, pod: Pod, billed: datetime | None, now: datetime) -> Held:
    """With its end: never after now, whatever a node's clock says, nor before what has been billed."""
    told, estimated = held_until(pod)
    end = max(min(told, whole(now)), one.held_from, billed or one.held_from)
    estimated = estimated or end != told
    return replace(one, held_until=end, estimated=estimated, ended_well=state_of(pod) == "Succeeded")


def _gone(before: Held, seen: datetime | None, *, done: bool) -> Held:
    """A vanished pod: its end if that was seen, else the time it was last seen. `done`: its Job counts it."""
    if before.held_until is not None:
        return before
    end = max(before.held_from, seen or before.held_from)
    return replace(before, held_until=end, estimated=True, ended_well=done)


class _Done:
    """What a batch Job counts as completed. Its text is parsed once, not for each pod."""

    def __init__(self, child: ChildJob) -> None:
        self._indexes = indexes(child.completed_indexes)
        self._started = parse_time(child.started) - STARTED_WITHIN if child.started else None

    def by(self, held: Held) -> bool:
        """Its index is completed, not by a pod of a later admission."""
        return held.index in self._indexes and (self._started is None or held.held_from >= self._started)


class _Shapes:
    """Shapes of pods, one for all equal pods."""

    def __init__(self, snapshot: JobSnapshot, known: Remembered, now: datetime) -> None:
        self._world = snapshot
        self._now = now
        self._admitted = _admissions(snapshot, known)
        self._fresh: dict[tuple[object, ...], Shape] = {}
        self._updated: dict[tuple[int, int], Shape] = {}

    def of(self, pod: Pod, before: Held | None) -> Shape:
        """What the pod holds according to its object and node; the past known from `before` stays unchanged."""
        if before is not None and pod.ended:
            return before.shape
        fresh = self._of_object(pod)
        if before is None or before.shape == fresh:
            return fresh
        key = (id(before.shape), id(fresh))
        if key not in self._updated:
            self._updated[key] = self._update(before.shape, fresh)
        return self._updated[key]

    def _of_object(self, pod: Pod) -> Shape:
        node = self._world.nodes.get(pod.node or "", UNKNOWN_NODE)
        key = (pod.stage, pod.attempt, id(pod.requests.quantities), pod.requests.unread, id(node))
        if key not in self._fresh:
            self._fresh[key] = self._new(pod, node)
        return self._fresh[key]

    def _new(self, pod: Pod, node: NodeClass) -> Shape:
        asked = self._world.job.spec.resources_of(pod.stage).effective()
        quantities = {name: decimal(quantity) for name, quantity in pod.requests.quantities.items()}
        unread = pod.requests.unread or (frozenset() if quantities else asked.keys())
        for name in unread & asked.keys():
            quantities[name] = max(asked[name], quantities.get(name, Decimal(0)))
        resources, merged = bounded(quantities)
        return Shape(
            stage=pod.stage,
            attempt=pod.attempt,
            resources=resources,
            resources_estimated=bool(unread) or pod.requests.merged or merged,
            product=node.product,
            capacity_type=node.capacity_type,
            node_labels=tuple(sorted(node.labels.items())),
            admitted=self._admitted.get((pod.stage, pod.attempt)),
        )

    def _update(self, before: Shape, fresh: Shape) -> Shape:
        """Take over the node's class where known, and the quantities from now on."""
        shape = replace(before, product=fresh.product or before.product, admitted=before.admitted or fresh.admitted)
        if fresh.node_labels:
            shape = replace(shape, capacity_type=fresh.capacity_type, node_labels=fresh.node_labels)
        if shape.told(fresh.resources).quantities == shape.now:
            return shape
        estimated = shape.resources_estimated or fresh.resources_estimated
        return replace(shape, resources_estimated=estimated).resized(fresh.resources, self._now)


def _admissions(snapshot: JobSnapshot, known: Remembered) -> Mapping[Attempt, datetime]:
    """Time since which each attempt's batch Job may have pods; if it may have none now, since it last might."""
    shapes = {id(held.shape): held.shape for held in known.held.values()}
    seen: list[Shape | ReplicaMeter] = [*shapes.values(), *known.meters.first.values()]
    found: dict[Attempt, datetime] = {}
    for each in seen:
        if each.admitted is not None:
            attempt = (each.stage, each.attempt)
            found[attempt] = max(each.admitted, found.get(attempt, each.admitted))
    for child in snapshot.child_jobs:
        attempt = (child.stage, child.attempt)
        if child.started is not None:
            found[attempt] = parse_time(child.started)
        elif not child.suspended:
            found.pop(attempt, None)  # just admitted, and its status does not say so yet
    return found


def ended(held: Holding) -> Iterator[HeldByPod]:
    """Those that no longer hold anything."""
    return (each for each in held.held if each[0].held_until is not None)
