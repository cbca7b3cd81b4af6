"""Figures of one model, and the details of both, as the report has them.

Subject           a model to measure
measurement_of    the figures that the status has of it
footprint_of      memory and multiplications
describe          the details of both
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from costopt.schema.variant_details import MAX_NOTES, Footprint, Interval, Side, Timing, VariantDetails
from costopt.schema.variant_report import Measurement, QualityChange
from costopt_trainer.compress.bootstrap import RESAMPLES
from costopt_trainer.compress.engines import graph_for
from costopt_trainer.compress.footprint import (
    NotSeen,
    bytes_in_memory,
    count_parameters,
    macs_of,
    peak_beside,
    peak_of_graph,
)
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.quality import Change, Comparison, Quality
from costopt_trainer.compress.timing import Running, Times
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.onnx_model import OnnxModel
from costopt_trainer.phases import phase

FOOTPRINT_SHARE = 1 / 40
"""Of the time that measuring may take: if a pass takes longer, multiplications and memory stay unknown, for they cost
one pass each."""
SHOWN_DIGITS = 6


@dataclass(frozen=True)
class Subject:
    """A model to measure, and the size of its weights file."""

    model: LayeredModel
    """In eval mode."""
    size_bytes: int


def measurement_of(subject: Subject, running: Running, times: Times, quality: Quality) -> Measurement:
    """What the status has of a model."""
    parameters, nonzero = count_parameters(subject.model)
    return Measurement(
        size_bytes=subject.size_bytes,
        parameters=parameters,
        nonzero_permille=nonzero * 1000 // parameters,
        latency_microseconds=times.p50,
        latency_p95_microseconds=times.p95,
        validation_loss=_shown(quality.loss),
        validation_accuracy_permille=None if quality.accuracy is None else round(1000 * quality.accuracy),
        validation_macro_f1_permille=None if quality.macro_f1 is None else round(1000 * quality.macro_f1),
        metrics={name: _shown(mean) for name, mean in quality.metrics.items()},
        engine=running.engine,
    )


def footprint_of(
    subject: Subject, running: Running, microseconds: int, batch: Tensor, *, calls: Overdue, seconds: float
) -> tuple[Footprint, list[str]]:
    """What a model needs under its engine, of whose passes the median takes `microseconds`, and a sentence about what
    is not known; `seconds`: all that measuring may take."""
    # Of a graph alone the parameters are the model's, which are not in memory: it has its own, of fewer bits.
    alone = isinstance(subject.model, OnnxModel)
    weights, macs, peak = subject.size_bytes if alone else bytes_in_memory(subject.model), None, None
    notes: list[str] = []
    if microseconds / 1e6 <= seconds * FOOTPRINT_SHARE:
        with phase("Measuring"):
            try:
                calls.begin()
                peak = weights + _peak(running, batch)
            except NotSeen as why:
                notes.append(f"peak memory under {running.engine} is not known: {why}"[:256])
            calls.begin()
            macs = macs_of(subject.model, batch)
    compiling = running.compile_seconds
    footprint = Footprint(
        disk_bytes=subject.size_bytes,
        weights_bytes=weights,
        peak_bytes=peak,
        macs_per_sample=None if macs is None else macs // len(batch),
        compile_milliseconds=None if compiling is None else round(1000 * compiling),
    )
    return footprint, notes


def _peak(running: Running, batch: Tensor) -> int:
    """Bytes of a pass beside the weights. Raises NotSeen."""
    if running.engine == "OnnxRuntime":
        return peak_of_graph(graph_for(running.forward, batch).folder, batch)
    return peak_beside(running.forward, batch)


def describe(
    footprints: Sequence[Footprint],
    timings: Sequence[list[Timing]],
    comparison: Comparison,
    device: torch.device,
    notes: list[str],
) -> VariantDetails:
    """The details; of the sequences the baseline's comes first, then the variant's."""
    baseline, variant = (
        Side(footprint=footprint, timings=of_one) for footprint, of_one in zip(footprints, timings, strict=True)
    )
    return VariantDetails(
        threads=torch.get_num_threads(),
        device=device.type,
        variant=variant,
        baseline=baseline,
        quality=[_interval(change) for change in comparison.changes],
        resamples=RESAMPLES,
        notes=notes,
    )


def with_disk_bytes(details: VariantDetails, disk_bytes: int) -> VariantDetails:
    """`details` with the bytes that the variant has on disk in the form that was measured."""
    footprint = details.variant.footprint.model_copy(update={"disk_bytes": disk_bytes})
    return details.model_copy(update={"variant": details.variant.model_copy(update={"footprint": footprint})})


def with_notes(details: VariantDetails, notes: Sequence[str]) -> VariantDetails:
    """`details` with further `notes` before its own."""
    return details.model_copy(update={"notes": [*notes, *details.notes][:MAX_NOTES]})


def quality_change(comparison: Comparison) -> QualityChange | None:
    """The change of the task's own metric; None where nothing can be said of how sure it is."""
    of = {change.metric: change for change in comparison.changes}
    change = of.get("Accuracy", of.get("Loss"))
    if change is None:
        return None
    told = change.difference
    return QualityChange(
        metric="Accuracy" if change.metric == "Accuracy" else "Loss",
        change=_shown(told.change),
        low=_shown(told.low),
        high=_shown(told.high),
    )


def _interval(change: Change) -> Interval:
    told = change.difference
    return Interval(
        metric=change.metric,
        model=_shown(told.first),
        variant=_shown(told.second),
        change=_shown(told.change),
        low=_shown(told.low),
        high=_shown(told.high),
        units=told.units,
        unit=change.unit,
    )


def _shown(value: float) -> str:
    return f"{value:.{SHOWN_DIGITS}g}"
