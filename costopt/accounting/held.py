"""What is held and has no record yet, in few bytes: a status must keep it, because a pod may vanish unseen.

Pods that hold the same form one group, and within it those with the same times one run of text. 4,096 pods placed
within a minute take about 60 KB; the tests measure it.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise

from costopt.accounting.quantities import FIRST, Bounded, Quantities, apart, bounded, largest
from costopt.schema.base import decimal
from costopt.schema.usage import MAX_HELD, MAX_RESIZES, MAX_RESOURCES, MAX_RUNS, CapacityType, HeldPods, Resize

MARK_DIGITS = 10
MAX_RUN = 4096
"""Pods in one run: the largest gang."""
_SECOND = timedelta(seconds=1)
_RUN = re.compile(rf"([0-9,-]+) ([0-9]{{1,10}})(~?) (?:-|([0-9]{{1,10}})(~?)(\+?)) ((?:[0-9a-f]{{{MARK_DIGITS}}})+)")


@lru_cache(maxsize=16384)
def mark_of(uid: str) -> str:
    """A short hash of a uid: two pods of one job collide once in a hundred thousand gangs of 4,096."""
    return hashlib.sha256(uid.encode(errors="replace")).hexdigest()[:MARK_DIGITS]


@dataclass(frozen=True, slots=True)
class Shape:
    """What pods of a group have in common."""

    stage: str
    attempt: int
    resources: Quantities
    resizes: tuple[tuple[datetime, Quantities], ...] = ()
    resources_estimated: bool = False
    product: str | None = None
    capacity_type: CapacityType = "OnDemand"
    node_labels: tuple[tuple[str, str], ...] = ()
    admitted: datetime | None = None

    @property
    def now(self) -> Quantities:
        """The quantities since the last resize."""
        return self.resizes[-1][1] if self.resizes else self.resources

    @property
    def names(self) -> set[str]:
        """Names of all its resources."""
        return {name for quantities in (self.resources, *(each for _, each in self.resizes)) for name, _ in quantities}

    def told(self, quantities: Quantities) -> Bounded:
        """The quantities, bounded to fit beside those of the shape."""
        return bounded({name: decimal(quantity) for name, quantity in quantities}, self.names)

    def resized(self, quantities: Quantities, since: datetime) -> "Shape":
        """The shape with other quantities from `since` on. If there are too many changes, the two closest in time
        become one with the larger quantities; if there are too many resources, the last ones become one.

        Now it holds what `told` gives for these quantities, so the same ones are no change at the next reconcile.
        """
        before, merged = list(self.resizes), False
        if len(before) >= MAX_RESIZES:
            gaps = [later[0] - earlier[0] for earlier, later in pairwise(before)]
            place = gaps.index(min(gaps))
            most = largest((before[place][1], before[place + 1][1]))
            before[place : place + 2] = [(before[place][0], most.quantities)]
            merged = True
        shape = replace(self, resizes=tuple(before))
        fit, cut = shape.told(quantities)
        estimated = self.resources_estimated or merged or cut
        return replace(shape, resizes=(*before, (since, fit)), resources_estimated=estimated)

    @property
    def fits(self) -> bool:
        """A record has room for all its resources and a price for each."""
        return len(apart(self.names - {*FIRST})) <= MAX_RESOURCES


@dataclass(frozen=True, slots=True)
class Held:
    """What one pod holds or held."""

    shape: Shape
    index: int
    mark: str
    held_from: datetime
    held_until: datetime | None = None
    """None: it still holds it."""
    estimated: bool = False
    """The end was not seen."""
    ended_well: bool = False
    begin_estimated: bool = False
    """It may have held something before `held_from`, counted or not."""


def write_held(all_held: Iterable[Held]) -> list[HeldPods]:
    """As the status keeps it, in a fixed order."""
    groups: defaultdict[Shape, list[Held]] = defaultdict(list)
    for held in all_held:
        groups[held.shape].append(held)
    if len(groups) > MAX_HELD:
        groups = _merged(groups)
    written = (group for shape in sorted(groups, key=_order) for group in _groups(shape, groups[shape]))
    return list(islice(written, MAX_HELD))


def _order(shape: Shape) -> tuple[object, ...]:
    """Unique per shape: the same pods are written the same way, whatever order they come in."""
    node = (shape.product is not None, shape.product or "", shape.capacity_type, shape.node_labels)
    admitted = shape.admitted.isoformat() if shape.admitted is not None else ""
    return (shape.stage, -shape.attempt, admitted, shape.resources, shape.resizes, shape.resources_estimated, *node)


def _merged(groups: Mapping[Shape, list[Held]]) -> defaultdict[Shape, list[Held]]:
    """One group per attempt: the largest quantities of all, and the node class that most of them run on."""
    by_attempt: defaultdict[tuple[str, int], list[Shape]] = defaultdict(list)
    for shape in groups:
        by_attempt[shape.stage, shape.attempt].append(shape)
    merged: defaultdict[Shape, list[Held]] = defaultdict(list)
    for shapes in by_attempt.values():
        sets = ((shape.resources, *(quantities for _, quantities in shape.resizes)) for shape in shapes)
        most = largest(quantities for each in sets for quantities in each).quantities
        usual = max(shapes, key=lambda shape: (len(groups[shape]), _order(shape)))
        whole = replace(usual, resources=most, resizes=(), resources_estimated=True) if len(shapes) > 1 else usual
        merged[whole] = [replace(held, shape=whole) for shape in shapes for held in groups[shape]]
    return merged


def _groups(shape: Shape, members: list[Held]) -> Iterator[HeldPods]:
    """Nearly always one; more for a Job that a queue evicts again and again."""
    since = min(held.held_from for held in members)
    runs: defaultdict[str, list[Held]] = defaultdict(list)
    for held in members:
        runs[_times(held, since)].append(held)
    ordered = sorted(runs.items(), key=lambda run: (min(held.index for held in run[1]), run[0]))
    texts = [text for times, run in ordered for text in _run(times, run)]
    for begin in range(0, len(texts), MAX_RUNS):
        yield HeldPods(
            stage=shape.stage,
            attempt=shape.attempt,
            resources=dict(shape.resources),
            resizes=[Resize(since=since, resources=dict(quantities)) for since, quantities in shape.resizes],
            resources_estimated=shape.resources_estimated,
            product=shape.product,
            capacity_type=shape.capacity_type,
            node_labels=dict(shape.node_labels),
            admitted=shape.admitted,
            since=since,
            pods=texts[begin : begin + MAX_RUNS],
        )


def _times(held: Held, since: datetime) -> str:
    begin = f"{(held.held_from - since) // _SECOND}{'~' if held.begin_estimated else ''}"
    if held.held_until is None:
        return f"{begin} -"
    end = max(0, (held.held_until - since) // _SECOND)
    return f"{begin} {end}{'~' if held.estimated else ''}{'+' if held.ended_well else ''}"


def _run(times: str, run: list[Held]) -> Iterator[str]:
    run.sort(key=lambda held: (held.index, held.mark))
    for begin in range(0, len(run), MAX_RUN):
        part = run[begin : begin + MAX_RUN]
        yield f"{_spans([held.index for held in part])} {times} {''.join(held.mark for held in part)}"


def _spans(numbers: list[int]) -> str:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def read_held(groups: Iterable[HeldPods]) -> Iterator[Held]:
    """What `write_held` wrote. Runs that somebody has damaged are skipped."""
    for group in groups:
        shape = Shape(
            stage=group.stage,
            attempt=group.attempt,
            resources=tuple(group.resources.items()),
            resources_estimated=group.resources_estimated,
            product=group.product,
            capacity_type=group.capacity_type,
            node_labels=tuple(group.node_labels.items()),
            admitted=group.admitted,
        )
        resizes = [(resize.since, tuple(resize.resources.items())) for resize in group.resizes]
        shape = _with(shape, resizes)
        for run in group.pods:
            yield from _members(run, shape, group.since)


def _with(shape: Shape, resizes: Sequence[tuple[datetime, Quantities]]) -> Shape:
    """The shape with these changes exactly as written; rebuilt if somebody has written too many names."""
    whole = replace(shape, resizes=tuple(resizes))
    if not whole.fits:
        for since, quantities in resizes:
            shape = shape.resized(quantities, since)
        return shape
    return whole


def _members(run: str, shape: Shape, since: datetime) -> Iterator[Held]:
    match = _RUN.fullmatch(run)
    if match is None:
        return
    spans, begin, unsure, end, estimated, well, marks = match.groups()
    try:
        held_from = since + int(begin) * _SECOND
        held_until = None if end is None else since + int(end) * _SECOND
    except OverflowError:
        return
    indexes = _numbers(spans, len(marks) // MARK_DIGITS)
    for place, index in enumerate(indexes):
        mark = marks[place * MARK_DIGITS : (place + 1) * MARK_DIGITS]
        yield Held(shape, index, mark, held_from, held_until, bool(estimated), bool(well), bool(unsure))


def _numbers(spans: str, most: int) -> list[int]:
    """The numbers in "0-3,7", at most `most`; none if the text is invalid."""
    found: list[int] = []
    for span in spans.split(","):
        first, _, last = span.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            return []
        found.extend(range(int(first), min(int(last or first), int(first) + most) + 1))
        if len(found) > most:
            return []
    return found if len(found) == most else []
