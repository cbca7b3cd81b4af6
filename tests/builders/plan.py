"""Jobs, replicas and a small world in which plans are carried out.

`World` is a shell without processes: it observes, writes the plan's status, starts and stops replicas that are plain
records, and checks the invariants of every plan. Tests make things happen in it: time passes, replicas end, vanish or
fall silent, the spec is edited, the shell dies between writing and doing.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from costopt.accounting.outcome import Attempt, AttemptEnd, Counted, outcome_in
from costopt.accounting.outlook import Outlook
from costopt.plan.backoff import starts_in
from costopt.plan.billed import with_bill
from costopt.plan.causes import CAUSES
from costopt.plan.decide import Observed, Plan, Replica, StopGang, is_final, is_suspended, plan
from costopt.plan.ends import ends_of
from costopt.schema.job import JobSpec
from costopt.schema.replica import FailureReason, Progress, TerminationMessage
from costopt.schema.status import Bill, JobStatus, StageStatus
from costopt.schema.usage import Outcome, UsageRecord
from costopt.schema.variant_report import Measurement, VariantStatus

START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
INT8 = {"name": "int8", "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]}
PRUNED = {"name": "pruned", "steps": [{"type": "Prune", "prune": {"structure": "Structured", "percent": 30}}]}

HEALED = {"name": "healed", "steps": [{"type": "FineTune", "fineTune": {"steps": 10}}]}


def spec(*variants: dict[str, Any], **changed: Any) -> JobSpec:
    """Two training nodes and the given variants, restarted at once unless `restarts` says otherwise; fields by their
    camelCase names, `numNodes` for the gang's size."""
    return JobSpec.model_validate(
        {
            "train": {
                "numNodes": changed.pop("numNodes", 2),
                "processesPerNode": 1,
                "resourcesPerNode": {"requests": {"cpu": "1", "memory": "1Gi"}},
                "recipe": {
                    "model": {"type": "DecoderLM"},
                    "data": {"type": "PythonStandardLibrary"},
                    "batch": {"globalBatchSize": 4, "microBatchSize": 1},
                    "totalSteps": 100,
                },
            },
            "compress": list(variants),
            "restarts": {"backoffSeconds": 0, **changed.pop("restarts", {})},
            **changed,
        }
    )


def given(*variants: dict[str, Any], **changed: Any) -> JobSpec:
    """The given variants of a model that is there: a job without a training."""
    plain = spec(*variants, **changed).to_plain()
    del plain["train"]
    for variant in plain["compress"]:
        variant.setdefault("resources", {"requests": {"cpu": "1", "memory": "1Gi"}})
    text = {"type": "Text", "text": {"path": "held-out.txt"}}
    return JobSpec.model_validate({**plain, "model": {"path": "/models/tiny"}, "evaluation": {"data": text}})


def report(name: str) -> VariantStatus:
    """A variant's report."""
    measured = Measurement(
        size_bytes=1,
        parameters=1,
        nonzero_permille=1000,
        latency_microseconds=1,
        validation_loss="1.0",
        engine="TorchEager",
    )
    return VariantStatus(
        name=name,
        measured=measured,
        baseline=measured,
        size_ratio="1",
        speedup="1",
        validation_loss_increase="0",
        artifact=f"artifacts/{name}",
        reloaded=True,
    )


def replica(index: int = 0, *, stage: str = "train", attempt: int = 0, **changed: Any) -> Replica:
    """One running replica."""
    uid = f"{stage}-a{attempt}-{index}"
    return Replica(uid=uid, stage=stage, attempt=attempt, index=index, **{"state": "Running", **changed})


def ended(index: int = 0, code: int | None = 0, **changed: Any) -> Replica:
    """One replica that has ended with `code`; what it `said` makes its termination message."""
    said = changed.pop("said", None)
    if said is not None:
        changed["termination"] = TerminationMessage(**{"exit_code": code or 0, **said})
    state = "Succeeded" if code == 0 else "Failed"
    return replica(index, **{"state": state, "exit_code": code, "ended_at": START, **changed})


def bill(cost: str | None, *, unpriced: tuple[str, ...] = ()) -> Bill:
    """A bill of one figure."""
    return Bill(
        currency="USD" if cost else None,
        price_book="default" if cost else None,
        priced_cost=cost,
        list_cost=None if unpriced else cost,
        unpriced_resources=list(unpriced),
    )


def usage_record(of: Replica, outcome: Outcome) -> UsageRecord:
    """The record of a replica that has ended."""
    return UsageRecord(
        uid=of.uid,
        stage=of.stage,
        attempt=of.attempt,
        index=of.index,
        resources={"cpu": "1"},
        held_from=START,
        held_until=of.ended_at or START,
        outcome=outcome,
    )


class World:
    """A job, its replicas, a clock, and a shell that does what plans say."""

    def __init__(self, job: JobSpec, *, most_variants: int | None = None) -> None:
        self.spec = job
        self.status = JobStatus()
        self.replicas: dict[str, Replica] = {}
        self.reports: dict[str, VariantStatus] = {}
        self.bill: Bill | None = None
        self.outlook: Outlook | None = None
        self.now = START
        self.most_variants = most_variants
        self.asked_to_stop: dict[str, StopGang] = {}
        self.started: list[tuple[str, int]] = []
        self.gang_sizes: dict[tuple[str, int], int] = {}
        self.counted: dict[Attempt, AttemptEnd] = {}
        self.records: dict[str, UsageRecord] = {}
        """Usage records by uid; each is made once."""
        self.stirred: dict[str, datetime] = {}
        """Last sign of life of each running replica, by uid; a missing one does not run, or cannot be heard."""

    # What happens in the world.

    def passes(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    def edit(self, **fields: Any) -> None:
        """The user edits the spec, fields by their camelCase names; None removes a field."""
        merged = {**self.spec.to_plain(), **fields}
        self.spec = JobSpec.model_validate({name: value for name, value in merged.items() if value is not None})

    def live(self, stage: str | None = None) -> list[Replica]:
        """Replicas that run."""
        return [each for each in self.replicas.values() if each.live and stage in (None, each.stage)]

    def end(self, who: Replica, code: int | None, **changed: Any) -> None:
        """A running replica ends; a variant that was made leaves its report unless `reported` is False."""
        reported = changed.pop("reported", True)
        said = changed.pop("said", None)
        if said is not None:
            changed["termination"] = TerminationMessage(**{"exit_code": code or 0, **said})
        state: Any = "Succeeded" if code == 0 else "Failed"
        self.replicas[who.uid] = replace(who, state=state, exit_code=code, ended_at=self.now, **changed)
        made = code == 0 or (said or {}).get("reason") == "VariantRejected"
        if made and who.stage != "train" and reported:
            self.reports[who.stage] = report(who.stage)

    def end_all(self, code: int, stage: str | None = None) -> None:
        """All running replicas (of a stage) end the same way."""
        for each in self.live(stage):
            self.end(each, code)

    def obey(self, code: int = 143) -> None:
        """Replicas that were asked to stop end."""
        for each in self.live():
            if each.uid in self.asked_to_stop:
                self.end(each, code)

    def stirs(self, who: Replica, step: int | None = None) -> None:
        """A replica gives a sign of life."""
        progress = who.progress if step is None else Progress(step=step, total_steps=100)
        self.replicas[who.uid] = replace(who, progress=progress)
        self.stirred[who.uid] = self.now

    def waits(self, who: Replica, reason: str = "a node", *, admitted: bool = True, in_vain: bool = False) -> None:
        """A replica turns out not to run yet; one that a queue has `admitted` should."""
        since = who.waiting_since or self.now if admitted else None
        self.replicas[who.uid] = replace(who, waiting_since=since, waiting_for=reason, waits_in_vain=in_vain)
        self.stirred.pop(who.uid, None)

    def runs(self, who: Replica) -> None:
        """A replica that waited runs now."""
        self.replicas[who.uid] = replace(who, waiting_since=None, waiting_for="")
        self.stirred[who.uid] = self.now

    # What the shell does.

    def silence(self, who: Replica) -> timedelta | None:
        """How long a replica has been silent, as a shell that always watches knows it."""
        since = self.stirred.get(who.uid) if who.live else None
        return None if since is None else max(timedelta(0), self.now - since)

    def observe(self) -> Observed:
        """What the shell sees."""
        return Observed(
            spec=self.spec,
            generation=3,
            status=self.status,
            replicas=tuple(replace(each, silent_for=self.silence(each)) for each in self.replicas.values()),
            bill=self.bill,
            outlook=self.outlook,
            variants=tuple(self.reports.values()),
            gang_sizes=self.gang_sizes,
            max_parallel_variants=self.most_variants,
        )

    def look(self) -> Plan:
        """Observe, plan, write and do."""
        decided = self.write()
        self.apply(decided)
        return decided

    def write(self) -> Plan:
        """Observe, plan and write; do nothing: the shell may die here."""
        decided = checked_plan(self.observe(), self.now)
        self.status = JobStatus.model_validate_json(decided.status.model_dump_json(by_alias=True))
        for attempt, end in decided.ends.items():
            assert self.counted.setdefault(attempt, end) is end, f"{attempt} is counted twice"
        self._record(decided)
        return decided

    def _record(self, decided: Plan) -> None:
        """Record every end whose outcome is known, in the same write as the status."""
        for each in sorted(self.replicas.values(), key=lambda each: (each.attempt, each.index)):
            if each.live or each.uid in self.records:
                continue
            outcome = outcome_in(
                (each.stage, each.attempt),
                ended_well=each.state == "Succeeded",
                ends=decided.ends,
                records=self.records.values(),
                known=ends_of(decided.status),
            )
            if outcome is not None:
                self.records[each.uid] = usage_record(each, outcome)

    def apply(self, decided: Plan, *, replicas_started: int = 1000) -> None:
        """Do what the plan says; a shell that dies meanwhile starts at most `replicas_started`."""
        for stop in decided.stop:
            for each in self.live():
                if (each.stage, each.attempt) == (stop.stage, stop.attempt):
                    self.asked_to_stop[each.uid] = stop
        for start in decided.start:
            self.started.append((start.stage, start.attempt))
            for index in range(min(self.spec.num_replicas(start.stage), replicas_started)):
                new = replica(index, stage=start.stage, attempt=start.attempt)
                if self.replicas.setdefault(new.uid, new) is new:
                    self.stirred[new.uid] = self.now

    # What it has come to.

    def stage(self, name: str = "train") -> StageStatus:
        """A stage of the status."""
        found = self.status.stage(name)
        assert found is not None
        return found

    def state(self, name: str = "train") -> tuple[str, int]:
        """State and attempt of a stage."""
        return self.stage(name).state, self.stage(name).attempt

    def says(self, kind: Any) -> tuple[str, str]:
        """Status and reason of a condition."""
        found = self.status.condition(kind)
        return (found.status, found.reason) if found else ("", "")


def running(job: JobSpec, **kept: Any) -> World:
    """A world in which training was just seen running."""
    world = World(job, **kept)
    world.look()
    world.look()
    assert world.state() == ("Running", 0)
    return world


def trained(job: JobSpec, **kept: Any) -> World:
    """A world in which training has just succeeded."""
    world = running(job, **kept)
    world.end_all(0)
    world.look()
    return world


_COUNTS: dict[Counted | None, tuple[int, int]] = {
    None: (0, 0),
    "Success": (0, 0),
    "Suspension": (0, 0),
    "Stop": (0, 0),
    "Failure": (1, 0),
    "Disruption": (0, 1),
}
"""Failures and disruptions that an end adds to its stage."""


def checked_plan(observed: Observed, now: datetime) -> Plan:
    """The plan, after checking the invariants of every plan."""
    decided = plan(observed, now)
    before, after = observed.status, decided.status

    shuffled = replace(observed, replicas=observed.replicas[::-1], variants=observed.variants[::-1])
    assert plan(shuffled, now) == decided, "the same observation in another order gave another plan"

    again = plan(replace(observed, status=after), now)
    if decided.requeue_after != timedelta(0):
        # An attempt is counted once, so its end is not repeated.
        assert again == replace(decided, ends={}), "the plan of what was just planned differs"

    started_stages = [start.stage for start in decided.start]
    assert len(set(started_stages)) == len(started_stages), "two attempts of a stage are started at once"
    live = {(each.stage, each.attempt) for each in observed.replicas if each.live}
    for start in decided.start:
        assert start.stage not in {stage for stage, _ in live}, f"{start} is started beside a live gang of its stage"
        stage = after.stage(start.stage)
        assert stage is not None
        assert (stage.state, stage.attempt) == ("Starting", start.attempt), "what is started is not written down"
        assert not starts_in(stage, observed.spec.restarts, now), "an attempt is started before its pause is over"
    assert {(stop.stage, stop.attempt) for stop in decided.stop} <= live, "what does not run is stopped"

    if is_final(before):
        assert not decided.start, "something is started after the end"
        assert after == with_bill(before, after.bill, observed.spec), "a finished job's status changed"
    if is_final(after) or is_suspended(after):
        assert not decided.start
        assert after.active_since is None
        assert not [stage for stage in after.stages if stage.state in ("Starting", "Running", "Stopping")]
    assert is_final(after) == (after.completion_time is not None)

    for condition in after.conditions:
        earlier = before.condition(condition.type)
        if earlier is None or earlier.status != condition.status:
            assert condition.last_transition_time >= (earlier.last_transition_time if earlier else now)
        else:
            assert condition.last_transition_time == earlier.last_transition_time
    limits = observed.spec.restarts
    for stage in after.stages:
        earlier_stage = before.stage(stage.name) or StageStatus(name=stage.name, state="Waiting")
        seen = [each.attempt for each in observed.replicas if each.stage == stage.name]
        assert earlier_stage.attempt <= stage.attempt <= max([earlier_stage.attempt, *seen]) + 1
        assert stage.failures <= max(limits.max_failures + 1, earlier_stage.failures)
        assert stage.disruptions <= max(limits.max_disruptions + 1, earlier_stage.disruptions)
        assert sum(stage.failures_by_reason.values()) == stage.failures
        for reason, times in stage.failures_by_reason.items():
            retries = CAUSES[cast("FailureReason", reason)].retries
            assert retries is None or times <= retries + 1, f"{reason} is tried unchanged too often"
        assert stage.failure is None or stage.state in ("Stopping", "Failed"), "an attempt that is whole has a failure"
        if earlier_stage.failure and earlier_stage.failure.reason == "NotStarted":
            assert stage.state != "Starting", "a gang that there is no room for is tried again"
        if earlier_stage.state in ("Succeeded", "Failed"):
            assert stage == earlier_stage, "a final stage changed"
        end = decided.ends.get((stage.name, earlier_stage.attempt))
        failed, disrupted = stage.failures - earlier_stage.failures, stage.disruptions - earlier_stage.disruptions
        assert (failed, disrupted) == _COUNTS[end.counted if end else None], "an end is not what was counted"
    assert 0 <= after.execution - before.execution <= 1
    assert after.active_milliseconds_before >= before.active_milliseconds_before
    assert decided.requeue_after is None or decided.requeue_after >= timedelta(0)
    return decided
