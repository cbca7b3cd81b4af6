"""What replicas spent their time on: their own reports, and an assumption for those without one. Pure.

A gang runs in step: a replica without a report spent its time like the first of its gang that has one. This holds
only within one admission: a queue may evict a batch Job and admit it again under the same attempt, and a report
from an earlier admission says nothing about the later one. A vanished replica keeps its own report.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from costopt.accounting.held import Held, Shape
from costopt.accounting.outcome import Attempt
from costopt.schema.replica import MeteredMilliseconds
from costopt.schema.usage import MAX_METERS, Outcome, ReplicaMeter
from costopt_operator.decide.objects import Pod, parse_time
from costopt_operator.decide.observe import JobSnapshot

Cohort = tuple[str, int, datetime | None]
"""Stage, attempt and admission: replicas that run in step."""


def cohort_of(what: Shape | ReplicaMeter) -> Cohort:
    """The cohort it runs in step with."""
    return (what.stage, what.attempt, what.admitted)


@dataclass(frozen=True)
class Meters:
    """All reports that are still needed."""

    own: Mapping[str, ReplicaMeter] = field(default_factory=dict)
    """By a pod's mark."""
    first: Mapping[Cohort, ReplicaMeter] = field(default_factory=dict)
    """Per cohort, the report of the lowest completion index; of two such, the one placed first."""

    def of(self, held: Held, outcome: Outcome = "Running") -> MeteredMilliseconds | None:
        """Its own, else that of its gang. A replica that succeeded, or counts so, may be recorded while the others
        still run, so their later reports must not affect it."""
        own = self.own.get(held.mark)
        if own is None and self.goes_by_its_gang(held, outcome):
            own = self.first.get(cohort_of(held.shape))
        return own.metered if own is not None else None

    def goes_by_its_gang(self, held: Held, outcome: Outcome) -> bool:
        """Whether it has no report of its own and did not succeed."""
        return held.mark not in self.own and not held.ended_well and outcome != "Succeeded"

    def kept(self, left: Iterable[Held], cohorts: Iterable[Cohort]) -> "Meters":
        """What is needed for the pods `left` without a record; for gangs, also those of other `cohorts`."""
        wanted = {*cohorts, *(cohort_of(held.shape) for held in left)}
        return Meters(self.own, {cohort: meter for cohort, meter in self.first.items() if cohort in wanted})

    def written(self, left: Iterable[Held], go_on: Collection[Attempt]) -> list[ReplicaMeter]:
        """As the status keeps them: of the pods `left` without a record and of their gangs; also of gangs of
        attempts that `go_on`, or may. If there are too many, those of gangs stay."""
        left = list(left)
        marks = {held.mark for held in left}
        first = self.kept(left, (cohort for cohort in self.first if cohort[:2] in go_on)).first
        speakers = {meter.mark: meter for meter in first.values()}
        others = {mark: meter for mark, meter in self.own.items() if mark in marks and mark not in speakers}
        return [*sorted(speakers.values(), key=_order), *sorted(others.values(), key=_order)][:MAX_METERS]


def _order(meter: ReplicaMeter) -> tuple[object, ...]:
    return (-meter.attempt, meter.stage, -meter.placed.timestamp(), meter.index, meter.mark)


def meters_of(accounts: Iterable[ReplicaMeter]) -> Meters:
    """These reports, one per replica, indexed."""
    own = {meter.mark: meter for meter in accounts}
    first: dict[Cohort, ReplicaMeter] = {}
    for meter in own.values():
        cohort = cohort_of(meter)
        if cohort not in first or _rank(meter) < _rank(first[cohort]):
            first[cohort] = meter
    return Meters(own, first)


def _rank(meter: ReplicaMeter) -> tuple[int, datetime, str]:
    return (meter.index, meter.placed, meter.mark)


def heard(known: Meters, held: Iterable[tuple[Held, Pod | None]], snapshot: JobSnapshot) -> Meters:
    """The reports, updated from pods that have no record yet; of other reports, only those of gangs are kept."""
    accounts = {meter.mark: meter for meter in known.first.values()}
    for one, pod in held:
        before = known.own.get(one.mark)
        metered = own_meter(pod, snapshot) if pod is not None else None
        if metered is None and before is not None:
            metered = before.metered
        if metered is None:
            continue
        if before is not None and before.metered == metered and before.admitted == one.shape.admitted:
            accounts[one.mark] = before
        else:
            accounts[one.mark] = _account(one, pod, before, metered)
    return meters_of(accounts.values())


def _account(held: Held, pod: Pod | None, before: ReplicaMeter | None, metered: MeteredMilliseconds) -> ReplicaMeter:
    placed = [held.held_from]
    placed += [before.placed] if before is not None else []
    placed += [parse_time(pod.scheduled)] if pod is not None and pod.scheduled is not None else []
    return ReplicaMeter(
        stage=held.shape.stage,
        attempt=held.shape.attempt,
        admitted=held.shape.admitted,
        index=held.index,
        mark=held.mark,
        placed=min(placed),
        metered=metered,
    )


def own_meter(pod: Pod, snapshot: JobSnapshot) -> MeteredMilliseconds | None:
    """What the pod said at its end, or what its log says."""
    if pod.said is not None and pod.said.progress is not None:
        return pod.said.progress.metered
    if pod.said is not None and pod.said.earlier_rounds is not None:
        return pod.said.earlier_rounds.metered
    log = snapshot.logs.get(pod.uid)
    return log.progress.metered if log is not None and log.progress is not None else None
