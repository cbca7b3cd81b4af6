"""A status and a spec -> what a report tells, in words and numbers.

MetricsPoint  one line of metrics.jsonl
Facts         all of it
facts_of      the one -> the other
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from costopt.accounting.exact import total
from costopt.accounting.payback import cost_told, hourly_cost
from costopt.report.axes import is_drawable
from costopt.report.charts import CauseBar, Mark, Point
from costopt.report.waste import CAUSE_WORDS, WASTED, Wasted, cost_of, wasted
from costopt.schema.job import JobSpec
from costopt.schema.prices import pricing_unit
from costopt.schema.replica import Progress
from costopt.schema.resources import GPU_RESOURCE
from costopt.schema.status import Bill, BillLine, JobStatus
from costopt.schema.variant_report import Measurement, Search, VariantStatus

CPU_RESOURCE = "cpu"
MODEL = "model"
_PASSES = 10**6
"""Forward passes that a cost is told of."""


@dataclass(frozen=True)
class Curves:
    """Points by step."""

    losses: list[Point]
    validation: list[Point]
    rates: list[Point]


@dataclass(frozen=True)
class Scatter:
    """Models by quality and one other figure; without marks, `note` says why there are none."""

    x_title: str
    marks: list[Mark]
    note: str = ""


@dataclass(frozen=True)
class Variant:
    """A row of the gate's table, in words."""

    name: str
    verdict: str
    smaller: str
    faster: str
    quality: str
    change: str
    reasons: list[str]


@dataclass(frozen=True)
class Facts:
    """What the page tells."""

    name: str
    state: str
    summary: list[tuple[str, str]]
    """Names and values, for the head of the page."""
    failure: str
    curves: Curves
    hours_unit: str
    currency: str
    causes: list[CauseBar]
    stages: list[tuple[str, str, str, str, str]]
    """Stage, state, attempts, hours and cost."""
    quality_title: str
    high_is_good: bool
    scatters: list[Scatter]
    variants: list[Variant]
    wasted: list[Wasted]
    saved: str
    notes: list[str]
    """What the figures leave open."""


def facts_of(name: str, status: JobStatus, spec: JobSpec | None, points: Sequence[Progress], now: datetime) -> Facts:
    """What there is to tell of job `name`. `spec` None: it is not known, and so no cost of a forward pass; `points`:
    the job's progress, in order of steps."""
    bill = status.bill or Bill()
    resource = main_resource(bill)
    currency = bill.currency or ""
    quality = _quality_of(status.variants)
    return Facts(
        name=name,
        state=status.state,
        summary=_summary(status, now),
        failure="" if status.failure is None else f"{status.failure.reason}: {status.failure.message.strip()}",
        curves=_curves(points),
        hours_unit=pricing_unit(resource),
        currency=currency,
        causes=_causes(bill, resource),
        stages=_stages(status, resource),
        quality_title=quality.title,
        high_is_good=quality.high_is_good,
        scatters=_scatters(status, spec, quality),
        variants=[_variant(report, quality) for report in status.variants],
        wasted=wasted(status, resource),
        saved=_saved(status),
        notes=_notes(bill),
    )


def main_resource(bill: Bill) -> str:
    """The resource by whose hours time is told: GPUs if there are any, else CPUs."""
    return GPU_RESOURCE if any(line.resource == GPU_RESOURCE for line in bill.lines) else CPU_RESOURCE


def money(amount: Decimal | None) -> str:
    """An amount in few digits; never 0 for what is not known, or for what is more than 0."""
    if amount is None:
        return "unknown"
    if amount == 0:
        return "0"
    places = 2 if amount >= 100 else 4 if amount >= Decimal("0.01") else 6
    shown = f"{amount:.{places}f}"
    return shown if float(shown) else f"{amount:.1e}"


def hours(quantity: Decimal) -> str:
    """Hours in few digits."""
    return f"{quantity:.3g}" if quantity < 100 else f"{quantity:,.0f}"


def _summary(status: JobStatus, now: datetime) -> list[tuple[str, str]]:
    found = []
    if status.start_time is not None:
        found.append(("Started", f"{status.start_time:%Y-%m-%d %H:%M} UTC"))
        end = status.completion_time
        found.append(("Ended" if end else "Until now", _duration((end or now) - status.start_time)))
    if status.progress is not None:
        found.append(("Steps", f"{status.progress.step:,} of {status.progress.total_steps:,}"))
        if status.progress.validation_loss is not None:
            found.append(("Validation loss", f"{float(status.progress.validation_loss):.4f}"))
        told = (status.progress.bad_samples, status.progress.data_saved)
        found += [("Data", line) for line in told if line is not None]
    found.append(("Cost", _cost(status.bill)))
    verdicts = [report.verdict for report in status.variants]
    if verdicts:
        found.append(("Variants", f"{verdicts.count('Accepted')} accepted, {verdicts.count('Rejected')} rejected"))
    return found


def _duration(length: object) -> str:
    seconds = max(0, round(getattr(length, "total_seconds")()))  # noqa: B009
    hours_, minutes = divmod(seconds // 60, 60)
    return f"{hours_} h {minutes} min" if hours_ else f"{minutes} min {seconds % 60} s"


def _cost(bill: Bill | None) -> str:
    if bill is None or bill.priced_cost is None:
        return "unknown"
    rest = "" if bill.list_cost is not None else " + unknown"
    return f"{money(Decimal(bill.priced_cost))} {bill.currency or ''}{rest}"


def _curves(points: Sequence[Progress]) -> Curves:
    losses = [(float(point.step), float(point.loss)) for point in points if point.loss is not None]
    rates = [(float(point.step), float(point.learning_rate)) for point in points if point.learning_rate is not None]
    validation: list[Point] = []
    for point in points:  # each line repeats the latest evaluation
        if point.validation_loss is None:
            continue
        loss = float(point.validation_loss)
        if not validation or validation[-1][1] != loss:
            validation.append((float(point.step), loss))
    return Curves(*(list(filter(_can_be_drawn, each)) for each in (losses, validation, rates)))


def _can_be_drawn(point: Point) -> bool:
    return all(map(is_drawable, point))


def _causes(bill: Bill, resource: str) -> list[CauseBar]:
    found = []
    for cause, word in CAUSE_WORDS.items():
        lines = [line for line in bill.lines if line.cause == cause]
        if not lines:
            continue
        taken, cost = _hours_of(lines, resource), cost_of(lines)
        found.append(
            CauseBar(
                cause=word,
                hours=float(taken),
                hours_told=hours(taken),
                cost=None if cost is None else float(cost),
                cost_told=money(cost),
                is_wasted=cause in WASTED,
            )
        )
    return found


def _hours_of(lines: Sequence[BillLine], resource: str) -> Decimal:
    return total(Decimal(line.consumed_quantity) for line in lines if line.resource == resource)


def _stages(status: JobStatus, resource: str) -> list[tuple[str, str, str, str, str]]:
    lines = status.bill.lines if status.bill else []
    found: list[tuple[str, str, str, str, str]] = []
    for stage in status.stages:
        own = [line for line in lines if line.stage == stage.name]
        cost = money(cost_of(own)) if own else ""
        taken = hours(_hours_of(own, resource)) if own else ""
        found.append((stage.name, stage.state, str(stage.attempt + 1), taken, cost))
    return found


@dataclass(frozen=True)
class _Quality:
    """Which figure tells how good a model is."""

    title: str
    high_is_good: bool
    of: Callable[[Measurement], float]

    def told(self, value: float) -> str:
        return f"{value:.1f}%" if self.high_is_good else f"{value:.4f}"


def _quality_of(variants: Sequence[VariantStatus]) -> _Quality:
    both = [side for report in variants for side in (report.measured, report.baseline)]
    if both and all(side.validation_accuracy_permille is not None for side in both):
        return _Quality("accuracy, %", True, lambda side: (side.validation_accuracy_permille or 0) / 10)
    return _Quality("validation loss (less is better)", False, lambda side: float(side.validation_loss))


def _scatters(status: JobStatus, spec: JobSpec | None, quality: _Quality) -> list[Scatter]:
    if not status.variants:
        return []
    first = status.variants[0].baseline
    rates = {report.name: _hourly(status, spec, report.name) for report in status.variants}
    of_model = _hourly(status, spec, "train")

    def marks(of: Callable[[VariantStatus], float], of_first: float, unit: str) -> list[Mark]:
        told = [
            (MODEL, of_first, first, "Model"),
            *((report.name, of(report), report.measured, report.verdict or "Rejected") for report in status.variants),
        ]
        return [
            Mark(name, x, quality.of(side), kind, f"{x:.4g} {unit}, {quality.told(quality.of(side))}")  # type: ignore[arg-type]
            for name, x, side, kind in told
            if is_drawable(quality.of(side)) and is_drawable(x)
        ]

    latency = Scatter("latency (model = 1)", marks(_latency, 1.0, "of the model's latency"))
    size = Scatter("size, MB", marks(lambda report: report.measured.size_bytes / 1e6, first.size_bytes / 1e6, "MB"))
    if of_model is None or None in rates.values():
        what = "no price of its resources is known"
        return [latency, size, Scatter("cost", [], f"What a forward pass costs is not known: {what}.")]
    currency = status.bill.currency if status.bill else ""
    seconds = first.latency_microseconds / 1e6
    per_pass = {name: float(rate or 0) / 3600 * seconds * _PASSES for name, rate in rates.items()}
    cost = marks(
        lambda report: per_pass[report.name] * _latency(report),
        float(of_model) / 3600 * seconds * _PASSES,
        currency or "",
    )
    return [latency, size, Scatter(f"cost of a million passes, {currency}", cost)]


def _latency(report: VariantStatus) -> float:
    """Of the model's, which was measured in the same process: other load on the machine affects both."""
    return report.measured.latency_microseconds / max(1, report.baseline.latency_microseconds)


def _hourly(status: JobStatus, spec: JobSpec | None, stage: str) -> Decimal | None:
    """What one replica of the stage costs an hour, by the prices in the bill; None if one of them is not known."""
    if spec is None or status.bill is None:
        return None
    return hourly_cost(spec.resources_of(stage).effective(), status.bill.lines)


def _variant(report: VariantStatus, quality: _Quality) -> Variant:
    after, before = quality.of(report.measured), quality.of(report.baseline)
    return Variant(
        name=report.name,
        verdict=report.verdict or "not judged",
        smaller=f"{float(report.size_ratio):.2f}x",
        faster=f"{float(report.speedup):.2f}x",
        quality=quality.told(after),
        change=f"{after - before:+.1f}" if quality.high_is_good else f"{after - before:+.4f}",
        reasons=[*_found(report.search), *(fault.message for fault in report.faults)],
    )


def _found(search: Search | None) -> list[str]:
    """How its steps were found."""
    if search is None:
        return []
    batches = search.payback_batches
    paid = "no pass pays that back" if batches is None else f"{batches:,} passes pay that back"
    beaten_by_none = [
        f"beaten by no other: {row.steps} ({row.latency_microseconds / 1000:.4g} ms, {row.size_bytes / 1e6:.4g} MB, "
        f"{float(row.quality_drop_percent):.3g} % of the quality lost)"
        for row in search.pareto
    ]
    found = f"{search.chosen}, found in {search.trials} trials and {search.seconds:,} s; {paid}"
    return [found, cost_told(search), *beaten_by_none]


def _saved(status: JobStatus) -> str:
    stopped = status.early_stopped
    if stopped is None:
        return ""
    cost = "an unknown cost" if stopped.list_cost_saved is None else money(Decimal(stopped.list_cost_saved))
    return (
        f"Training ended at step {stopped.stopped_at_step:,} of {stopped.total_steps:,}, because it no longer "
        f"improved; by estimate that saved {stopped.steps_saved:,} steps and {cost} {stopped.currency or ''}".rstrip()
        + "."
    )


def _notes(bill: Bill) -> list[str]:
    notes = []
    if bill.unpriced_resources:
        notes.append(f"No price is known for {', '.join(bill.unpriced_resources)}: costs with them are unknown.")
    if bill.estimated_records:
        notes.append(f"Of {bill.estimated_records} replicas the end was not seen, or a quantity could not be read.")
    if bill.lines:
        notes.append("Costs are list prices times hours: an estimate, not an invoice.")
    return notes
