"""The life of a job, one step at a time: `plan(observed, now)` says what to write down and what to do next.

A job is a row of stages: training, then the variants; of a model that is given, the variants alone. A stage goes from
state to state like this:

    Waiting     it is due: training is first, variants follow it ───▶ Starting, with the next attempt (the first is 0)
    Starting    its pause after losses in a row is not over ────────▶ Starting
                a replica of the attempt is seen ───────────────────▶ Running
                the job is stopped before that ─────────────────────▶ Waiting
    Running     all replicas ended well, a variant's with a report ─▶ Succeeded
                one did not, or waits too long to run, none stirs any
                more, or the job is to stop: the others are stopped,
                until all have ended ───────────────────────────────▶ Stopping
    Stopping    every replica exited 0 ─────────────────────────────▶ Succeeded
                one for a reason that no restart can mend, or there
                was not room for all ───────────────────────────────▶ Failed
                the job is stopped; this counts as nothing ─────────▶ Waiting
                otherwise a failure or a disruption is counted, and
                    its limit allows another attempt ───────────────▶ Starting, with the next attempt
                    it does not ────────────────────────────────────▶ Failed

A gang in which no replica is left running passes through Stopping in no time. A Running gang whose replicas are gone
without a trace was lost to a disruption. Starting says StartGang in every plan until a replica is seen, Stopping says
StopGang until all have ended: everything may be said twice, and an attempt is written down before it is started, so a
shell may crash at any line.

The job is active, or suspended (at once, or after its gangs were stopped), or at its end. Each active stretch is an
execution. A variant's failure does not stop the others; the job then fails when all are done. Its end is final: nothing
but its bill, its leftovers and its deletion is decided after it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from costopt.accounting.outcome import Attempt, AttemptEnd
from costopt.names import TRAIN_STAGE
from costopt.plan import budget, conditions
from costopt.plan.actions import Plan, StartGang, StopGang, StopReason
from costopt.plan.attempts import Situation, advance, stage_gang, startup_left, waits_for
from costopt.plan.backoff import starts_in
from costopt.plan.billed import with_bill
from costopt.plan.conditions import Finding
from costopt.plan.deadlines import active_milliseconds, deadline_in, deletion_in
from costopt.plan.early_stop import early_stopped, in_words
from costopt.plan.foreign_text import safe_progress, safe_report
from costopt.plan.halts import Halt, find_halt, is_stopping, is_suspended
from costopt.plan.observed import Observed, Replica
from costopt.plan.restarts import finish, with_restarts_in_place
from costopt.plan.stages import FINAL, IN_FLIGHT, begin_due, gangs_to_start, parted, stages_of, strays_to_stop
from costopt.plan.under_way import MAY_WAIT, is_due, pending_in, under_way, with_phase
from costopt.schema.replica import Progress
from costopt.schema.status import EarlyStopped, Failure, JobStatus, StageStatus
from costopt.schema.variant_report import VariantStatus

__all__ = ["Observed", "Plan", "Replica", "StartGang", "StopGang", "has_succeeded", "is_final", "is_suspended", "plan"]

BUDGET_LOOK = timedelta(seconds=15)
"""Interval for a running job with a budget: no event reports that money was spent."""
PRICE_LOOK = timedelta(hours=1)
"""Interval for a job that waits for a price: a price takes effect with its day, without an event."""


def is_final(status: JobStatus) -> bool:
    """The job has ended: Succeeded is True or False."""
    condition = status.condition("Succeeded")
    return condition is not None and condition.status != "Unknown"


def has_succeeded(status: JobStatus) -> bool:
    """The job has ended well."""
    condition = status.condition("Succeeded")
    return condition is not None and condition.status == "True"


def plan(observed: Observed, now: datetime) -> Plan:
    """What to write down and what to do next, for a job seen like this at `now` (aware).

    The same observation gives the same plan; a plan of the status just planned says the same again.
    """
    if is_final(observed.status):
        return _after_the_end(observed, now)

    before = observed.status
    spending = budget.compare(observed.spec, observed.bill, observed.outlook)
    halt = find_halt(observed.spec, before, spending, now, deleting=observed.deleting)
    stopping = halt is not None or is_stopping(before)

    situation = Situation(observed, _reason(halt) if stopping else None, now, ends_job=halt is not None and halt.final)
    stages, failure, stops, ends = _advance_all(situation)
    if not stopping:
        stages = begin_due(stages, observed, now)
    progress = _newest_progress(observed)
    stopped = early_stopped(observed.spec, parted(stages)[0], progress)
    ending = _find_ending(stages, halt, _finished_variants(observed, stages), stopped)
    if ending:
        stages = [_closed(stage, now) for stage in stages]
    stages = [with_phase(stage, observed, now) for stage in stages]
    at_rest = not any(stage.state in IN_FLIGHT for stage in stages)
    suspended = stopping and at_rest and ending is None

    if suspended:
        findings = conditions.while_suspended(halt, _lost_work(stages, observed))
    elif ending:
        findings = {"Succeeded": ending, "Suspended": conditions.NOT_SUSPENDED}
    elif stopping:
        findings = conditions.while_stopping(halt)
    else:
        findings = {"Succeeded": under_way(stages, observed, now), "Suspended": conditions.NOT_SUSPENDED}
    findings["Stalled"] = conditions.stalled_finding([stop.stage for stop in stops if stop.reason == "Stalled"])
    if spending is not None:
        findings["BudgetExceeded"] = conditions.budget_finding(spending)
    findings["Priced"] = conditions.priced_finding(observed.spec, observed.bill)

    status = before.model_copy(
        update={
            "observed_generation": observed.generation,
            "conditions": conditions.updated(before, findings, generation=observed.generation, now=now),
            "start_time": before.start_time or now,
            "completion_time": now if ending else None,
            **_activity(before, active=not (suspended or ending), now=now),
            "stages": stages,
            "progress": progress,
            "continues_from_step": _continues_from(before, progress),
            "early_stopped": stopped,
            "variants": _finished_variants(observed, stages),
            "failure": failure,
        }
    )
    status = with_bill(status, observed.bill or before.bill, observed.spec)
    return Plan(
        status=status,
        start=gangs_to_start(stages, observed, now),
        stop=(*stops, *strays_to_stop(stages, observed.replicas)),
        ends=ends,
        delete=is_due(deletion_in(observed.spec, status, now)),
        requeue_after=timedelta(0) if suspended and halt is None else _look_again(observed, status, now),
    )


def _reason(halt: Halt | None) -> StopReason:
    """Why gangs are stopped; a stop whose reason has gone meanwhile goes on as if asked for."""
    return halt.reason if halt else "SuspendRequested"


def _activity(before: JobStatus, *, active: bool, now: datetime) -> dict[str, Any]:
    """The status fields that tell how often and how long the job has been active."""
    if not active:
        return {"active_since": None, "active_milliseconds_before": active_milliseconds(before, now)}
    if before.active_since is None:
        return {"active_since": now, "execution": before.execution + 1}
    return {}


def _after_the_end(observed: Observed, now: datetime) -> Plan:
    """A finished job: only its bill, its leftovers and its deletion are still decided."""
    status = with_bill(observed.status, observed.bill or observed.status.bill, observed.spec)
    left = deletion_in(observed.spec, status, now)
    return Plan(
        status=status,
        stop=strays_to_stop(status.stages, observed.replicas),
        delete=is_due(left),
        requeue_after=None if left is None or is_due(left) else left,
    )


def _advance_all(
    situation: Situation,
) -> tuple[list[StageStatus], Failure | None, tuple[StopGang, ...], Mapping[Attempt, AttemptEnd]]:
    observed = situation.observed
    stages: list[StageStatus] = []
    stops: list[StopGang] = []
    ends: dict[Attempt, AttemptEnd] = {}
    failure = observed.status.failure
    for stage in stages_of(observed.spec, observed.status):
        if stage.state not in IN_FLIGHT:
            stages.append(stage)
            continue
        gang = stage_gang(observed, stage)
        step = advance(with_restarts_in_place(stage, gang.replicas), situation)
        stages.append(step.stage)
        failure = step.news or failure
        if step.stop:
            stops.append(step.stop)
        if step.end:
            ends[stage.name, stage.attempt] = step.end
    return stages, failure, tuple(stops), ends


def _find_ending(
    stages: list[StageStatus], halt: Halt | None, reports: list[VariantStatus], stopped: EarlyStopped | None
) -> Finding | None:
    """How the job ends, if it ends now. Completed work takes precedence over a reason to stop."""
    training, variants = parted(stages)
    if training is not None and training.state == "Failed":
        failure = training.failure
        reason = "NotStarted" if failure and failure.reason == "NotStarted" else "TrainingFailed"
        return Finding("False", reason, failure.message if failure else "training failed")
    if any(stage.state in IN_FLIGHT for stage in stages):
        return None
    if all(stage.state in FINAL for stage in stages):
        failed = [stage for stage in variants if stage.state == "Failed"]
        if failed:
            named = ", ".join(stage.name for stage in failed)
            unmade = f"the model was trained, but not its variants {named}"
            if training is None:
                unmade = f"variants of the model were not made: {named}"
            causes = [f"{stage.name}: {stage.failure.message}" for stage in failed if stage.failure]
            return Finding("False", "VariantFailed", ". ".join([unmade, *causes]))
        reason = "EarlyStopped" if stopped else "Completed"
        trained = in_words(stopped) if stopped else "the model was trained"
        made = f"{trained} and all its variants were made"
        return Finding("True", reason, _completed(reports, made if training else "all variants of the model were made"))
    if halt and halt.final:
        return Finding("False", halt.reason, halt.message)
    return None


def _closed(stage: StageStatus, now: datetime) -> StageStatus:
    """A stage of a job that ends: begun and not done is Failed, not begun stays Waiting."""
    begun = stage.state not in FINAL and stage.start_time is not None
    return finish(stage, "Failed", now) if begun else stage


def _lost_work(stages: list[StageStatus], observed: Observed) -> str:
    """What of a suspended job was not saved, as the end of a sentence: steps of a recipe that are in no checkpoint, or
    variants that were being made, but for those of which a step trains. Empty when nothing is lost."""
    training, variants = parted(stages)
    begun = [stage.name for stage in variants if stage.state not in FINAL and stage.start_time is not None]
    unmade = [name for name in begun if not observed.spec.trains(name)]
    if unmade:
        return f"; what was made of {', '.join(unmade)} is lost, for a variant is made anew"
    progress = _newest_progress(observed)
    if observed.spec.recipe is None or progress is None or training is None or training.state in FINAL:
        return ""
    lost = progress.step - (progress.last_checkpoint_step or 0)
    if lost <= 0:
        return ""
    saved = progress.last_checkpoint_step
    where = "there is no checkpoint yet" if saved is None else f"the last checkpoint is that of step {saved}"
    return f"; {lost} steps are lost, for replicas ended before they had saved them: {where}"


def _newest_progress(observed: Observed) -> Progress | None:
    """The latest training attempt's progress, of its first replica where it is known; else the last known one."""
    reports = [
        ((replica.attempt, -replica.index, report.step, replica.uid), report)
        for replica in observed.replicas
        if replica.stage == TRAIN_STAGE
        and (report := replica.progress or (replica.termination and replica.termination.progress))
    ]
    return safe_progress(max(reports, key=lambda keyed: keyed[0])[1]) if reports else observed.status.progress


def _continues_from(before: JobStatus, progress: Progress | None) -> int | None:
    """The step that the job's first report of progress went on from: nothing of this job can have been saved before."""
    if before.continues_from_step is not None or before.progress is not None or progress is None:
        return before.continues_from_step
    return progress.resumed_from_step or None


def _finished_variants(observed: Observed, stages: list[StageStatus]) -> list[VariantStatus]:
    """Reports of the variants that are done, in order; one that was read before stays if it cannot be read now."""
    reports = {report.name: report for report in (*observed.status.variants, *observed.variants)}
    return [safe_report(reports[stage.name]) for stage in stages if _is_judged(stage) and stage.name in reports]


def _is_judged(stage: StageStatus) -> bool:
    """Its variant was made and measured, also where it was rejected and is required."""
    rejected = stage.failure is not None and stage.failure.reason == "VariantRejected"
    return stage.state == "Succeeded" or (stage.state == "Failed" and rejected)


def _completed(reports: list[VariantStatus], made: str) -> str:
    rejected = [
        f"{report.name} ({', '.join(fault.reason for fault in report.faults)})" for report in reports if report.faults
    ]
    return f"{made}; rejected: {', '.join(rejected)}" if rejected else made


def _look_again(observed: Observed, status: JobStatus, now: datetime) -> timedelta | None:
    """Time until something can change by itself. A silence grows only when the shell reads again, not by itself."""
    waits = [deletion_in(observed.spec, status, now)]
    if status.active_since is not None:
        waits.append(deadline_in(observed.spec, status, now))
        running = [stage for stage in status.stages if stage.state == "Running"]
        waiting = [stage for stage in status.stages if stage.state in MAY_WAIT and waits_for(stage, observed)]
        waits += [pending_in(stage, now) for stage in waiting]
        waits += [startup_left(stage, observed) for stage in running]
        starting = [stage for stage in status.stages if stage.state == "Starting"]
        waits += [starts_in(stage, observed.spec.restarts, now) for stage in starting]
        if observed.spec.restarts.start_timeout_seconds is not None:
            start_timeout = timedelta(seconds=observed.spec.restarts.start_timeout_seconds)
            waits += [stage_gang(observed, stage).gives_up_waiting_in(start_timeout, now) for stage in running]
        if observed.spec.budget is not None:
            waits.append(BUDGET_LOOK)
    suspended = status.condition("Suspended")
    if suspended is not None and (suspended.status, suspended.reason) == ("True", "PriceUnknown"):
        waits.append(PRICE_LOOK)
    # What is due already has been decided; only an event can change it now.
    return min((wait for wait in waits if wait is not None and wait > timedelta(0)), default=None)
