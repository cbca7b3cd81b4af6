"""Status, bill and failure as text for people. Unknown figures read "unknown", never 0."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TextIO

from rich.console import Group, RenderableType
from rich.text import Text

from costopt.accounting.exact import total
from costopt.cli.safe_console import SafeConsole
from costopt.cli.tables import metric_figure, table
from costopt.names import TRAIN_STAGE, own_metric_of
from costopt.schema.replica import FailureReason, Progress
from costopt.schema.resources import GPU_RESOURCE
from costopt.schema.status import Bill, BillLine, EarlyStopped, Failure, JobStatus, StageStatus, Total

PLAIN_WIDTH = 160
"""Columns if there is no terminal: a table in a file should not wrap."""

WHAT_TO_DO: dict[FailureReason, str] = {
    "InvalidSettings": "Correct the settings that the message names",
    "InvalidData": "Correct the data or its settings",
    "DataUnreachable": "Make the data reachable, or raise spec.restarts.maxFailures to wait for longer",
    "LossNotFinite": "Lower optimizer.learningRate",
    "CheckpointNotWritable": "Make room, or make the folder writable",
    "CheckpointUnreadable": "Do as the message says",
    "OutOfMemory": "Do as the message says",
    "DeviceOutOfMemory": "Do as the message says",
    "StorageLimitExceeded": "Do as the message says",
    "CommandNotFound": "Do as the message says",
    "CannotStart": "Do as the message says",
}
METRICS: dict[str, Callable[[float], str]] = {
    "validationAccuracyPermille": lambda permille: f"accuracy {permille / 10:.1f}%",
    "validationMacroF1Permille": lambda permille: f"macro F1 {permille / 10:.1f}%",
    "validationPerplexityPerToken": lambda perplexity: f"perplexity {perplexity:.2f}",
    "validationPerplexityPerMaskedToken": lambda perplexity: f"perplexity {perplexity:.2f} per hidden token",
    "validationBitsPerByte": lambda bits: f"{bits:.4f} bits/byte",
}
"""A result of an evaluation -> how people are told of it."""
METRIC_WORDS = {"ValidationLoss": "validation loss", "Accuracy": "accuracy", "MacroF1": "macro F1"}
READ_THE_LOG = "Read the whole log with `{logs} --stage {stage} --attempt {attempt}`."


@dataclass(frozen=True)
class Place:
    """Where a job is, for the advice that follows its failure."""

    logs: str
    """The command that prints its logs."""
    retry: str
    """How to retry a failed job once its cause is fixed; continues a sentence."""


def goes_on(*, saved: bool | None, trains: bool = True) -> str:
    """From where a job that is started again trains, if it `trains`; continues a subject. `saved`: whether there is a
    checkpoint; None: nobody here knows."""
    if not trains:
        return "goes on with its variants"
    if saved is None:
        return "goes on from its last checkpoint, if there is one"
    return "goes on from its last checkpoint" if saved else "begins at its first step, for there is no checkpoint yet"


def has_saved(progress: Progress | None) -> Literal[True] | None:
    """True if a job with this progress has a checkpoint; None: nobody said so."""
    saved = progress is not None and (progress.last_checkpoint_step or progress.resumed_from_step) is not None
    return True if saved else None


def has_training(status: JobStatus) -> bool:
    """Whether the job trains its model; a new one of which nothing is known counts as such."""
    return not status.stages or status.stage(TRAIN_STAGE) is not None


def local_place(folder: str, *, saved: bool | None = None, trains: bool = True) -> Place:
    """A run folder on this machine; `saved` and `trains` as for `goes_on`."""
    return Place(
        logs=f"costopt logs {folder}",
        retry=f"then run the same command with --retry: it {goes_on(saved=saved, trains=trains)}.",
    )


def console(stream: TextIO | None = None) -> SafeConsole:
    """A console for `stream` (standard output by default)."""
    stream = stream or sys.stdout
    return SafeConsole(file=stream, highlight=False, soft_wrap=False, width=None if stream.isatty() else PLAIN_WIDTH)


def bill_views(bill: Bill) -> list[RenderableType]:
    """The bill: its lines, what its time was spent on, and its notes."""
    merged: dict[tuple[str, ...], list[BillLine]] = {}
    for line in bill.lines:
        # The device model of a node is on all of its lines; it says something of its GPUs alone.
        what = f"{line.resource} ({line.product})" if line.product and line.resource == GPU_RESOURCE else line.resource
        key = (
            line.stage,
            what,
            line.capacity_type,
            line.consumed_unit,
            line.list_unit_price or "",
            line.price_source or "",
        )
        merged.setdefault(key, []).append(line)
    currency = bill.currency or ""
    rows = [
        (
            stage,
            _with_capacity(resource, capacity),
            _sum(line.consumed_quantity for line in lines),
            unit,
            price or "unknown",
            _money_of(lines),
        )
        for (stage, resource, capacity, unit, price, _), lines in merged.items()
    ]
    rows.append(("total", "", "", "", "", total_cost(bill)))
    *words, prices, sums = zip(*rows, strict=True)
    cells = list(zip(*words, _aligned(prices), _aligned(sums), strict=True))
    columns = ("stage", "resource", "hours", "unit", "unit price", f"cost {currency}".strip())
    drawn: list[RenderableType] = [table("Bill (list prices: an estimate, not an invoice)", columns, cells, left=2)]
    drawn += [Text(line) for line in _price_sources(bill)]
    if bill.by_cause:
        costs = _aligned([_cost_of(entry) for entry in bill.by_cause])
        causes = list(zip((entry.key for entry in bill.by_cause), costs, strict=True))
        drawn.append(table("What the money was spent on", ("cause", f"cost {currency}".strip()), causes))
    if bill.unpriced_resources:
        book = f"price book {bill.price_book} has no price for" if bill.price_book else "there is no price book for"
        drawn.append(Text(f"Unknown in part: {book} {', '.join(_unpriced(bill))}."))
    if bill.estimated_records:
        counted = f"{bill.estimated_records} replica(s)"
        drawn.append(Text(f"Estimated in part: of {counted} the end was not seen, or a quantity could not be read."))
    if bill.coarsened:
        names = ", ".join(bill.coarsened).lower()
        drawn.append(Text(f"Too many to be told apart: {names}. All hours are counted."))
    return drawn


def _unpriced(bill: Bill) -> list[str]:
    """Resources without a price, with their capacity type if it is not on-demand."""
    lines = [line for line in bill.lines if line.list_cost is None]
    named = dict.fromkeys(_with_capacity(line.resource, line.capacity_type) for line in lines)
    return list(named) or bill.unpriced_resources


def _with_capacity(resource: str, capacity: str) -> str:
    return resource if capacity == "OnDemand" else f"{resource} {capacity}"


def _price_sources(bill: Bill) -> list[str]:
    """The source of each unit price."""
    resources: dict[str, list[str]] = {}
    for line in bill.lines:
        if line.price_source and line.resource not in resources.setdefault(line.price_source, []):
            resources[line.price_source].append(line.resource)
    return [f"Price of {', '.join(names)}: {source}" for source, names in resources.items()]


def total_cost(bill: Bill | None) -> str:
    """The cost so far, without its currency; an unknown part is named."""
    if bill is None or bill.priced_cost is None:
        return "unknown"
    return bill.list_cost if bill.list_cost is not None else f"{bill.priced_cost} + unknown"


def cost_so_far(bill: Bill | None) -> str:
    """The cost in a few digits, for a line that changes constantly."""
    if bill is None or bill.priced_cost is None:
        return "unknown"
    rest = "" if bill.list_cost is not None else " + unknown"
    return f"{Decimal(bill.priced_cost):.6f} {bill.currency or ''}{rest}".strip()


def _aligned(figures: Sequence[str]) -> list[str]:
    """The figures padded with zeros so that decimal points align; texts stay as they are."""
    parts = [figure.partition(" ") for figure in figures]  # "0.08 + unknown" also has a figure
    places = max((len(figure.partition(".")[2]) for figure, _, _ in parts if _is_figure(figure)), default=0)
    return [
        (f"{Decimal(figure):.{places}f}" if _is_figure(figure) else figure) + space + rest
        for figure, space, rest in parts
    ]


def _is_figure(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _sum(figures: Iterable[str]) -> str:
    return format(total(map(Decimal, figures)), "f")


def _money_of(lines: Sequence[BillLine]) -> str:
    costs = [line.list_cost for line in lines if line.list_cost is not None]
    return _sum(costs) if len(costs) == len(lines) else "unknown"


def _cost_of(entry: Total) -> str:
    if entry.list_cost is None:
        return "unknown"
    return f"{entry.list_cost} + unknown" if entry.unpriced_lines else entry.list_cost


def failure_text(failure: Failure, place: Place, *, recovered: bool = False) -> str:
    """Why it failed, where, its last lines, and what to do about it unless the job has recovered."""
    where = [f"attempt {failure.attempt}"]
    where += [f"rank {failure.rank}"] if failure.rank is not None else []
    where += [f"replica {failure.replica_index}"] if failure.replica_index is not None else []
    where += [f"exit code {failure.exit_code}"] if failure.exit_code is not None else []
    what = "had failed and was restarted" if recovered else "failed"
    lines = [f"{failure.stage} {what}: {failure.reason} ({', '.join(where)})", f"  {failure.message.strip()}"]
    if failure.log_tail:
        lines += ["  last lines of its log:", *(f"    {line}" for line in failure.log_tail[-20:])]
    log = READ_THE_LOG.format(logs=place.logs, stage=failure.stage, attempt=failure.attempt)
    what_to_do = None if recovered else WHAT_TO_DO.get(failure.reason)
    lines.append(f"  {what_to_do}, {place.retry} {log}" if what_to_do else f"  {log}")
    return "\n".join(lines)


def failures_text(status: JobStatus, place: Place, *, recovered: bool = False) -> list[str]:
    """The latest failure in full, then a line for each other stage that has failed: variants fail each by itself."""
    latest = status.failure
    lines = [] if latest is None else [failure_text(latest, place, recovered=recovered)]
    return lines + [
        f"{stage.name} failed: {stage.failure.reason}: {stage.failure.message.strip()}"
        for stage in status.stages
        if stage.state == "Failed" and stage.failure is not None and (latest is None or stage.name != latest.stage)
    ]


def entropies_text(progress: Progress | None) -> str | None:
    """The validation loss beside that of the simplest models of the same text; None if that was not measured."""
    names = ("validationLossNatsPerByte", "unigramEntropyNatsPerByte", "bigramEntropyNatsPerByte")
    figures = [progress.results.get(name) for name in names] if progress else []
    if not figures or None in figures:
        return None
    loss, unigram, bigram = (float(figure or "nan") for figure in figures)
    better = (loss < unigram) + (loss < bigram)
    verdict = ("not better than either", "better than one of them", "better than both")[better]
    return (
        f"Validation loss {loss:.4f} nats per byte; entropy of the text's bytes {unigram:.4f}, "
        f"given the byte before {bigram:.4f}: {verdict}"
    )


def stages_table(status: JobStatus) -> Group:
    """Stages, their attempts and what was lost; restarts in place if there were any."""
    anew = any(stage.in_place_restarts for stage in status.stages)
    rows = [
        (stage.name, stage.state, *map(str, (stage.attempt, stage.failures, stage.disruptions)))
        + ((str(stage.in_place_restarts),) if anew else ())
        for stage in status.stages
    ]
    columns = ("stage", "state", "attempt", "failures", "disruptions", *(("restarts in place",) if anew else ()))
    return table("Stages", columns, rows, left=2)


def restarts_in_place_text(stage: StageStatus) -> str | None:
    """Why ranks of its current attempt were started anew in place the last time; None if they were not."""
    cause = stage.restarted_for
    if cause is None:
        return None
    where = "" if cause.rank is None else f" (rank {cause.rank})"
    return f"{stage.name}: ranks were started anew in place: {cause.reason}{where}: {cause.message.strip()}"


def progress_text(progress: Progress) -> str:
    """How far training is, in one line."""
    parts = [f"step {progress.step}/{progress.total_steps}"]
    parts += [f"loss {float(progress.loss):.4f}"] if progress.loss else []
    parts += [f"validation loss {float(progress.validation_loss):.4f}"] if progress.validation_loss else []
    for name, told in METRICS.items():
        figure = progress.results.get(name)
        parts += [told(float(figure))] if figure else []
    for name, figure in progress.results.items():
        parts += [f"{metric} {metric_figure(figure)} per sample"] if (metric := own_metric_of(name)) else []
    if (auto := progress.auto_batch) is not None:
        scale = "" if auto.noise_scale is None else f" (noise scale {float(auto.noise_scale):.1f})"
        parts.append(f"batch {auto.global_batch_size}{scale}")
    parts += [f"{progress.tokens_per_second:,} tokens/s"] if progress.tokens_per_second else []
    parts += [f"{progress.samples_per_second:,} samples/s"] if progress.samples_per_second else []
    return "  ".join(parts)


def early_stopped_text(stopped: EarlyStopped) -> str:
    """Why training ended before its last step, and what that saved."""
    metric, best = METRIC_WORDS[stopped.metric], float(stopped.best)
    figure = f"{best:.4f}" if stopped.metric == "ValidationLoss" else f"{best / 10:.1f}%"
    kept = ", whose model was kept" if stopped.model_step == stopped.best_step else ""
    cost = stopped.list_cost_saved
    saved = [f"{stopped.steps_saved} steps"]
    saved += [f"{each.quantity} {each.unit} of {each.resource}" for each in stopped.hours_saved]
    saved.append("an unknown cost" if cost is None else f"{cost} {stopped.currency or ''}".rstrip())
    return (
        f"Stopped early at step {stopped.stopped_at_step} of {stopped.total_steps}: the {metric} was best at step "
        f"{stopped.best_step} ({figure}){kept}. Saved, by estimate: {', '.join(saved)}."
    )


def duration(seconds: float) -> str:
    """A duration as a clock shows it: 0:42, 12:05, 3:07:00."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
