"""Variants as text for people: each beside its source model, and the reasons against it."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from costopt.cli.tables import table
from costopt.schema.variant_report import Measurement, VariantStatus


def variants_table(variants: Sequence[VariantStatus]) -> Group:
    """Each variant beside its baseline, measured in the same process; fits into 80 columns."""
    model = variants[0].baseline
    sizes: list[tuple[str, ...]] = [
        ("(trained model)", size(model.size_bytes), "1.00x", f"{model.parameters:,}", _share(model))
    ]
    figures: list[tuple[str, ...]] = [
        ("(trained model)", milliseconds(model.latency_microseconds), "", "1.00x", _loss(model), "")
    ]
    for variant in variants:
        measured = variant.measured
        ratio, speedup = f"{float(variant.size_ratio):.2f}x", f"{float(variant.speedup):.2f}x"
        sizes.append((variant.name, size(measured.size_bytes), ratio, f"{measured.parameters:,}", _share(measured)))
        figures.append(
            (
                variant.name,
                milliseconds(measured.latency_microseconds),
                milliseconds(variant.baseline.latency_microseconds),
                speedup,
                _loss(measured),
                f"{float(variant.validation_loss_increase):+.4f}",
            )
        )
    columns = ["", "latency", "the model's", "speedup", "loss", "change"]
    accuracies = [_accuracy(measured) for measured in (model, *(variant.measured for variant in variants))]
    if any(accuracies):
        columns.append("accuracy")
        figures = [(*row, accuracy) for row, accuracy in zip(figures, accuracies, strict=True)]
    return Group(
        table("Variants: size (ratio: larger is better)", ("", "bytes", "ratio", "parameters", "non-zero"), sizes),
        table("Variants: latency, beside the model's in the same process; held-out loss", columns, figures),
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


def _accuracy(measured: Measurement) -> str:
    permille = measured.validation_accuracy_permille
    return "" if permille is None else f"{permille / 10:.1f}%"


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
