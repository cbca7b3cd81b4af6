"""Variants as text for people: each beside its source model, and the reasons against it."""

import math
from collections.abc import Callable, Sequence

from rich.console import Group
from rich.text import Text

from costopt.accounting.payback import cost_told
from costopt.cli.tables import metric_figure, table
from costopt.names import in_words
from costopt.schema.variant_report import Measurement, ParetoRow, QualityMetric, Search, VariantStatus


def variants_table(variants: Sequence[VariantStatus]) -> Group:
    """Each variant beside its baseline, measured in the same process; fits into 80 columns."""
    model = variants[0].baseline
    sizes: list[tuple[str, ...]] = [
        ("(trained model)", size(model.size_bytes), "1.00x", f"{model.parameters:,}", _share(model))
    ]
    times: list[tuple[str, ...]] = [
        ("(trained model)", milliseconds(model.latency_microseconds), _p95(model), "", "1.00x")
    ]
    losses: list[tuple[str, ...]] = [("(trained model)", _loss(model), "")]
    for variant in variants:
        measured = variant.measured
        ratio, speedup = f"{float(variant.size_ratio):.2f}x", f"{float(variant.speedup):.2f}x"
        sizes.append((variant.name, size(measured.size_bytes), ratio, f"{measured.parameters:,}", _share(measured)))
        latency, beside = measured.latency_microseconds, variant.baseline.latency_microseconds
        times.append((variant.name, milliseconds(latency), _p95(measured), milliseconds(beside), speedup))
        losses.append((variant.name, _loss(measured), f"{float(variant.validation_loss_increase):+.4f}"))
    size_columns = ["", "bytes", "ratio", "parameters", "non-zero"]
    if any(variant.verdict for variant in variants):
        size_columns.append("verdict")
        verdicts = ["", *(variant.verdict or "" for variant in variants)]
        sizes = [(*row, verdict) for row, verdict in zip(sizes, verdicts, strict=True)]
    columns = ["", "loss", "change"]
    intervals = ["", *(_interval(variant) for variant in variants)]
    if any(intervals):
        columns.append(_INTERVAL_OF[_metric(variants)])
        losses = [(*row, cell) for row, cell in zip(losses, intervals, strict=True)]
    for name, told in _METRICS.items():
        cells = [told(variants[0], model), *(told(variant, variant.measured) for variant in variants)]
        if any(cells):
            columns.append(name)
            losses = [(*row, cell) for row, cell in zip(losses, cells, strict=True)]
    all_measured = [model, *(variant.measured for variant in variants)]
    for name in dict.fromkeys(name for measured in all_measured for name in measured.metrics):
        figures = [measured.metrics.get(name) for measured in all_measured]
        columns.append(f"{in_words(name)}/sample")
        losses = [
            (*row, "" if figure is None else metric_figure(figure)) for row, figure in zip(losses, figures, strict=True)
        ]
    return Group(
        table("Variants: size (ratio: larger is better)", size_columns, sizes),
        table(
            "Variants: latency, beside the model's in the same process",
            *_without_empty(("", "latency", "p95", "the model's", "speedup"), times),
        ),
        table(f"Variants: on held-out data, loss in nats per {_unit(variants[0])}", columns, losses),
        *(Text(line) for line in variant_notes(variants)),
    )


def variant_notes(variants: Sequence[VariantStatus]) -> list[str]:
    """What the tables cannot show: the engines that a speed-up compares, losses of other samples than the first row's,
    how steps were found, and the reasons against a variant."""
    alike = [one.name for one in variants if one.measured.engine == one.baseline.engine == "TorchEager"]
    notes = [f"{', '.join(alike)}: run under TorchEager, and so is the model beside"] if alike else []
    for variant in variants:
        engine, beside = variant.measured.engine, variant.baseline.engine
        if engine is not None and (engine != "TorchEager" or engine != beside):
            notes.append(f"{variant.name}: run under {engine}, the model beside it under {beside}, its fastest")
        if _loss(variant.baseline) != _loss(variants[0].baseline):
            samples = f"{variant.validation_samples:,}" if variant.validation_samples is not None else "other"
            of_model = _loss(variant.baseline)
            notes.append(f"{variant.name}: its loss is of {samples} samples, on which the model's is {of_model}")
        if variant.search is not None:
            told = [search_told(variant.search), cost_told(variant.search), *map(_pareto, variant.search.pareto)]
            notes += [f"{variant.name}: {line}" for line in told]
    return notes + [f"{variant.name}: rejected: {fault.message}" for variant in variants for fault in variant.faults]


def search_told(search: Search) -> str:
    """How `auto` found the steps, and after how many passes that has paid."""
    batches = search.payback_batches
    paid = "which no pass pays back" if batches is None else f"paid back after {batches:,} passes"
    return f"{search.chosen}, found in {search.trials} trials and {search.seconds:,} s, {paid}"


def _pareto(row: ParetoRow) -> str:
    """A list of steps that no other one beats."""
    lost = float(row.quality_drop_percent)
    return (
        f"no other is as good as {row.steps}: {milliseconds(row.latency_microseconds)}, {size(row.size_bytes)}, "
        f"quality {-lost if lost else 0.0:+.2f} %"
    )


def _p95(measured: Measurement) -> str:
    return "" if measured.latency_p95_microseconds is None else milliseconds(measured.latency_p95_microseconds)


def _without_empty(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows without columns that nobody fills: an earlier version did not measure all."""
    kept = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]


_INTERVAL_OF: dict[QualityMetric, str] = {
    "Loss": "95 % between",
    "Accuracy": "accuracy's change",
    "MacroF1": "macro F1's change",
}
"""Title of the column with the bounds between which a change is with 95 percent confidence; it stands behind the loss's
change."""


def _metric(variants: Sequence[VariantStatus]) -> QualityMetric:
    """What the bounds are of; all variants of a job have one task."""
    return next(variant.quality_change.metric for variant in variants if variant.quality_change is not None)


def _interval(variant: VariantStatus) -> str:
    """The bounds: nats of a loss, else percent points."""
    change = variant.quality_change
    if change is None:
        return ""
    low, high = float(change.low), float(change.high)
    if change.metric == "Loss":
        return f"{low:+.4f} to {high:+.4f}"
    return f"{100 * low:+.1f} to {100 * high:+.1f} %"


def _share(measured: Measurement) -> str:
    return f"{measured.nonzero_permille / 10:.1f}%"


def _percent(permille: int | None) -> str:
    return "" if permille is None else f"{permille / 10:.1f}%"


def _perplexity(variant: VariantStatus, measured: Measurement) -> str:
    loss = float(measured.validation_loss)
    if variant.loss_per not in ("Token", "MaskedToken"):
        return ""
    return f"{math.exp(loss):.2f}" if loss < MOST_NATS else "unknown"


def _bits_per_byte(variant: VariantStatus, measured: Measurement) -> str:
    if variant.bytes_per_token is None or not float(variant.bytes_per_token):
        return ""
    return f"{float(measured.validation_loss) / float(variant.bytes_per_token) / math.log(2):.4f}"


_METRICS: dict[str, Callable[[VariantStatus, Measurement], str]] = {
    "accuracy": lambda _, measured: _percent(measured.validation_accuracy_permille),
    "macro F1": lambda _, measured: _percent(measured.validation_macro_f1_permille),
    "perplexity": _perplexity,
    "bits/byte": _bits_per_byte,
}
"""Column -> its cell, of a variant or of its model; a column is shown if one of them has it."""

MOST_NATS = 30.0
"""A perplexity beyond that is no figure for a table: it has more than thirteen digits."""


def _unit(variant: VariantStatus) -> str:
    """What the losses are per, in words."""
    if variant.loss_per is None:
        return "token (of images, per sample)"
    return {"Token": "token", "MaskedToken": "hidden token", "Sample": "sample"}[variant.loss_per]


def _loss(measured: Measurement) -> str:
    return f"{float(measured.validation_loss):.4f}"


def size(num_bytes: int) -> str:
    """Bytes in a unit that needs few digits."""
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.2f} {unit}"
        amount /= 1024
    return f"{amount:.2f} GiB"


def milliseconds(microseconds: int) -> str:
    """A latency."""
    return f"{microseconds / 1000:.2f} ms"
