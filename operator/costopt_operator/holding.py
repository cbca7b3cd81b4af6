"""Who holds what, as pods show it and as it is remembered: a pod that vanishes is recorded from what was seen. Pure.

Once a pod has been seen on a node, what it holds stands in the status until its record does, so nothing that others do
to the pod (its finalizer, its labels, its deletion by force, a resize, the loss of its node) takes away from the bill.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from costopt.accounting.exact import plain
from costopt.accounting.held import Held, Shape, mark_of, read_held
from costopt.accounting.outcome import Attempt
from costopt.schema.base import decimal
from costopt.schema.replica import MeteredMilliseconds
from costopt.schema.usage import MAX_HELD, GangMeter, Usage, UsageRecord
from costopt_operator.node_class import UNKNOWN_NODE, NodeClass
from costopt_operator.observe import World, held_until, state_of
from costopt_operator.sightings import Pod, indexes, parse_time

COUNTED_LATE = timedelta(seconds=5)
"""Pods that run are counted up to so long ago: the end of one is known only when its node has told it."""
VANISHED = "vanished"
"""How the id of a record begins whose pod has vanished; its mark and its beginning follow."""


HeldByPod = tuple[Held, Pod | None]
"""With its pod; None: that has vanished."""


@dataclass(frozen=True)
class Remembered:
    """What is known besides what the pods show now."""

    held: Mapping[str, Held]
    """By mark: what was held at the last look, as far as it stood in no record."""
    seen: datetime | None = None
    """When that was."""


@dataclass(frozen=True)
class Holding:
    """All that stands in no record."""

    held: tuple[HeldByPod, ...]
    meters: Mapping[Attempt, GangMeter]

    def remembered(self, usage: Usage, now: datetime) -> Remembered:
        """What to remember of it when `usage` has been written."""
        recorded = {record.uid for record in usage.records}
        return Remembered({each.mark: each for each, pod in self.held if uid_of(each, pod) not in recorded}, whole(now))


def whole(moment: datetime) -> datetime:
    """The moment in whole seconds, as the API server tells times."""
    return moment.replace(microsecond=0)


def remembered(usage: Usage) -> Remembered:
    """What the status remembers."""
    return Remembered({held.mark: held for held in read_held(usage.held)}, usage.seen)


def uid_of(held: Held, pod: Pod | None) -> str:
    """The id of its record."""
    return pod.uid if pod is not None else f"{VANISHED}-{held.mark}-{held.held_from:%Y%m%dT%H%M%S}"


def counted_until(held: Held, now: datetime) -> datetime:
    """Up to when it is counted: its end, or some seconds ago while it runs."""
    return held.held_until or max(held.held_from, whole(now) - COUNTED_LATE)


def holding(world: World, usage: Usage, known: Remembered, now: datetime) -> Holding:
    """What is held now and what is not yet recorded of what was, out of the pods and of what is `known`."""
    recorded = {record.uid: record for record in usage.records}
    vanished_before = _vanished(usage.records)
    billed = _billed(world.status.usage or Usage())
    shapes = _Shapes(world, now)
    held: list[HeldByPod] = []
    there: set[str] = set()
    for pod in world.pods:
        mark = mark_of(pod.uid)
        there.add(mark)
        before = known.held.get(mark)
        if pod.uid in recorded or (before is None and not _is_news(pod)):
            continue
        held_from = before.held_from if before else min(whole(now), _placed(pod))
        if mark in vanished_before:
            # It is back. What it held until it vanished is recorded.
            held_from = max(held_from, vanished_before[mark])
        shape = shapes.of(pod, before)
        one = Held(shape, pod.index if before is None else before.index, mark, held_from)
        held.append((_ended(one, pod, billed.get(mark), now) if pod.ended else one, pod))
    # A record can have been written although its answer never came.
    accounted = there | {mark_of(uid) for uid in recorded}
    done = {(child.stage, child.attempt): indexes(child.completed_indexes) for child in world.child_jobs}
    for mark, before in known.held.items():
        if mark not in accounted and uid_of(before, None) not in recorded:
            held.append((_gone(before, known.seen, done.get((before.shape.stage, before.shape.attempt))), None))
    return Holding(tuple(held), _meters(world, usage, {(one.shape.stage, one.shape.attempt) for one, _ in held}))


def _is_news(pod: Pod) -> bool:
    """It holds something, or our finalizer says that it did and that this was not recorded."""
    return pod.scheduled is not None and (pod.has_finalizer or not pod.ended)


def _placed(pod: Pod) -> datetime:
    return parse_time(pod.scheduled or pod.started or pod.created)


def _vanished(records: Iterable[UsageRecord]) -> dict[str, datetime]:
    """Until when pods that vanished are recorded, by mark."""
    found: dict[str, datetime] = {}
    for record in records:
        if record.uid.startswith(f"{VANISHED}-"):
            mark = record.uid.split("-")[1]
            found[mark] = max(found.get(mark, record.held_until), record.held_until)
    return found


def _billed(usage: Usage) -> dict[str, datetime]:
    """Up to when each pod stands in the bill that was written last: a bill does not go down."""
    return {held.mark: counted_until(held, usage.seen or held.held_from) for held in read_held(usage.held)}


def _ended(one: Held, pod: Pod, billed: datetime | None, now: datetime) -> Held:
    """With its end: never later than now, whatever a node's clock says, nor before what has been billed."""
    told, estimated = held_until(pod)
    end = max(min(told, whole(now)), one.held_from, billed or one.held_from)
    estimated = estimated or end != told
    return replace(one, held_until=end, estimated=estimated, ended_well=state_of(pod) == "Succeeded")


def _gone(before: Held, seen: datetime | None, done: frozenset[int] | None) -> Held:
    """A pod that has vanished: its end, if it was seen, else when it was last seen."""
    if before.held_until is not None:
        return before
    end = max(before.held_from, seen or before.held_from)
    return replace(before, held_until=end, estimated=True, ended_well=before.index in (done or ()))


class _Shapes:
    """Shapes of pods, one for all that are alike."""

    def __init__(self, world: World, now: datetime) -> None:
        self._world = world
        self._now = now
        self._fresh: dict[tuple[object, ...], Shape] = {}
        self._updated: dict[tuple[int, int], Shape] = {}

    def of(self, pod: Pod, before: Held | None) -> Shape:
        """What the pod holds by its object and node; of what was known `before`, the past stays as it was."""
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
        quantities = dict(pod.requests.quantities)
        unread = pod.requests.unread or (frozenset() if quantities else asked.keys())
        for name in unread & asked.keys():
            quantities[name] = plain(max(asked[name], decimal(quantities.get(name, "0"))))
        return Shape(
            stage=pod.stage,
            attempt=pod.attempt,
            resources=tuple(sorted(quantities.items())),
            resources_estimated=bool(unread) or pod.requests.merged,
            product=node.product,
            capacity_type=node.capacity_type,
            node_labels=tuple(sorted(node.labels.items())),
        )

    def _update(self, before: Shape, fresh: Shape) -> Shape:
        """The node's class is taken over as far as it is known; quantities from now on."""
        shape = replace(before, product=fresh.product or before.product)
        if fresh.node_labels:
            shape = replace(shape, capacity_type=fresh.capacity_type, node_labels=fresh.node_labels)
        return shape if shape.now == fresh.resources else shape.resized(fresh.resources, self._now)


def _meters(world: World, usage: Usage, unrecorded: set[Attempt]) -> dict[Attempt, GangMeter]:
    """Of each attempt the meter of its first replica that has one, as long as the attempt may need it."""
    current = {(stage.name, stage.attempt) for stage in world.status.stages}
    found = {(each.stage, each.attempt): each for each in usage.meters}
    for pod in world.pods:
        attempt = (pod.stage, pod.attempt)
        known = found.get(attempt)
        if known is None or pod.index <= known.index:
            metered = own_meter(pod, world)
            if metered is not None:
                found[attempt] = GangMeter(stage=pod.stage, attempt=pod.attempt, index=pod.index, metered=metered)
    # What a queue admits again begins its account anew, under the same attempt.
    taken_back = {(child.stage, child.attempt) for child in world.child_jobs if child.suspended}
    wanted = sorted(found.keys() & (unrecorded | (current - taken_back)), key=lambda attempt: (-attempt[1], attempt[0]))
    return {attempt: found[attempt] for attempt in wanted[:MAX_HELD]}


def own_meter(pod: Pod, world: World) -> MeteredMilliseconds | None:
    """What the pod said at its end, or what its log says."""
    if pod.said is not None and pod.said.progress is not None:
        return pod.said.progress.metered
    log = world.logs.get(pod.uid)
    return log.progress.metered if log is not None and log.progress is not None else None


def ended(held: Holding) -> Iterator[HeldByPod]:
    """Those that hold nothing any more."""
    return (each for each in held.held if each[0].held_until is not None)
