"""Variants as text for people: each beside its source model, and the reasons against it."""

import math
from collections.abc import Callable, Sequence

from rich.console import Group
from rich.text import Text

from costopt.cli.tables import metric_figure, table
from costopt.names import in_words
from costopt.schema.variant_report import Measurement, VariantStatus


def variants_table(variants: Sequence[VariantStatus]) -> Group:
    """Each variant beside its baseline, measured in the same process; fits into 80 columns."""
    model = variants[0].baseline
    sizes: list[tuple[str, ...]] = [
        ("(trained model)", size(model.size_bytes), "1.00x", f"{model.parameters:,}", _share(model))
    ]
    times: list[tuple[str, ...]] = [("(trained model)", milliseconds(model.latency_microseconds), "", "1.00x")]
    losses: list[tuple[str, ...]] = [("(trained model)", _loss(model), "")]
    for variant in variants:
        measured = variant.measured
        ratio, speedup = f"{float(variant.size_ratio):.2f}x", f"{float(variant.speedup):.2f}x"
        sizes.append((variant.name, size(measured.size_bytes), ratio, f"{measured.parameters:,}", _share(measured)))
        latency, beside = measured.latency_microseconds, variant.baseline.latency_microseconds
        times.append((variant.name, milliseconds(latency), milliseconds(beside), speedup))
        losses.append((variant.name, _loss(measured), f"{float(variant.validation_loss_increase):+.4f}"))
    columns = ["", "loss", "change"]
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
        table("Variants: size (ratio: larger is better)", ("", "bytes", "ratio", "parameters", "non-zero"), sizes),
        table(
            "Variants: latency, beside the model's in the same process",
            ("", "latency", "the model's", "speedup"),
            times,
        ),
        table(f"Variants: on held-out data, loss in nats per {_unit(variants[0])}", columns, losses),
        *(Text(line) for line in variant_notes(variants)),
    )


def variant_notes(variants: Sequence[VariantStatus]) -> list[str]:
    """What the tables cannot show: the engines that a latency was measured under, and the reasons against a variant."""
    notes = []
    for variant in variants:
        engine, beside = variant.measured.engine, variant.baseline.engine
        if engine is not None and (engine != "TorchEager" or engine != beside):
            notes.append(f"{variant.name}: run under {engine}, the model beside it under {beside}")
    return notes + [
        f"{variant.name}: not worth deploying: {fault.message}" for variant in variants for fault in variant.faults
    ]


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
