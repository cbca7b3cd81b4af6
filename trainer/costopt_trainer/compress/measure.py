"""A variant and the baseline it was made from, measured in one process: the order of what is measured, and its time.

    measure             all of it: figures for the status, and details for report.json
    time_side_by_side   latency of each, interleaved, under the fastest engine of each

Latency is the time of one forward pass, without gradients and in the weights' own precision, of one batch: the
micro-batch of the recipe (or of `evaluation`), filled with the first validation samples. Runs alternate (baseline,
variant, baseline, ...) after a warm-up, so that other load on the machine affects both equally. Each runs under its
fastest engine: the variant among those that it is meant for, the baseline among these and what else this machine has
(`engines_beside`), so that a speed-up is never only that of an engine. One that cannot run here (no C++ compiler), or
computes something else, is left out with one line.

What is measured beside latency has files of its own: quality.py, points.py (other sizes), decoding.py (token by token),
footprint.py (memory and multiplications). Measuring takes a bounded time, however slow a model is: see the shares of it
below, and overdue.py.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from costopt.schema.variant_details import Timing, VariantDetails
from costopt.schema.variant_report import EngineName, Measurement
from costopt_trainer.compress.decoding import time_decoding
from costopt_trainer.compress.details import Subject, describe, footprint_of, measurement_of
from costopt_trainer.compress.engines import Forward, engines_beside, start
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.points import Point, time_points, timing_of
from costopt_trainer.compress.quality import Comparison, compare_quality
from costopt_trainer.compress.timing import Running, Times, alternate
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.phases import phase

WARM_UP_RUNS = 3
MIN_RUNS, MAX_RUNS = 15, 200
CHOOSING_RUNS = 5
"""Of each engine, if there are several."""
TIMING_BUDGET_SECONDS = 5.0
"""Timing stops after this long, or after MAX_RUNS, but not before MIN_RUNS of each."""
TIMING_SHARE, QUALITY_SHARE, POINTS_SHARE, DECODING_SHARE = 1 / 10, 4 / 10, 1 / 10, 1 / 10
"""Of the time that measuring may take: timing ends then in any case, even with one run of each, and so do warm-up and
the choices of an engine for the model and the variant; and what the losses are evaluated in; and what other sizes, and
tokens one by one, are timed in."""
DECODING_BUDGET_SECONDS = 10.0
"""Of the micro-batch's length, where no size is named."""

REPEAT_TOLERANCE = 0.01
"""Largest difference between two runs on the same input, relative to the output's norm."""
ENGINE_TOLERANCE = 0.15
"""Largest difference between an engine's output and TorchEager's. Activations quantized in another order of operations
round differently (usually 0.01 to 0.09); an output overwritten or computed wrongly differs by 1 or more."""


@dataclass(frozen=True)
class Latency:
    """The engine a model was timed under, and the times of its passes."""

    running: Running
    times: Times

    @property
    def microseconds(self) -> int:
        """The median."""
        return self.times.p50


@dataclass(frozen=True)
class Measured:
    """Both measurements, their samples, and what else is known."""

    baseline: Measurement
    variant: Measurement
    comparison: Comparison
    details: VariantDetails


def measure(
    baseline: Subject,
    variant: Subject,
    *,
    name: str,
    held_out: HeldOut,
    engines: Sequence[EngineName],
    device: torch.device,
    seconds: float,
    points: Sequence[Point] = (),
) -> Measured:
    """Measure `baseline` and `variant`, whose name is `name`, in about `seconds`; both models are moved to `device`.

    `engines` are those that the variant is meant for, `points` further sizes to time passes at. Raises
    NotRetryable("LossNotFinite") if a loss is not a number, and NotRetryable("ArtifactMismatch") if a model changes its
    input or is not repeatable. A single run that takes minutes ends the process (see overdue.py).
    """
    subjects = (baseline, variant)
    for subject in subjects:
        subject.model.to(device)
    batch = measured_batch(held_out).to(device)
    with Overdue(name) as calls:
        timed = time_side_by_side(
            baseline.model, variant.model, batch, engines=engines, calls=calls, limit=seconds * TIMING_SHARE
        )
        comparison = compare_quality(
            [_evaluated(subject, latency, calls) for subject, latency in zip(subjects, timed, strict=True)],
            held_out,
            device,
            baseline.model.own_metrics,
            seconds=seconds * QUALITY_SHARE,
        )
        per_token = held_out.metric.target != "Sample"
        pair = [latency.running for latency in timed]
        more, notes = time_points(pair, points, batch, calls, seconds * POINTS_SHARE, per_token=per_token)
        decoded, others = _decoding(pair, points, batch, calls=calls, seconds=seconds, held_out=held_out)
        footprints = [
            footprint_of(subject, latency.running, latency.times.p50, batch, calls=calls, seconds=seconds)
            for subject, latency in zip(subjects, timed, strict=True)
        ]
    here = Point(len(batch), None if batch.is_floating_point() else batch.shape[1])
    first = [timing_of("Forward", here, each.running, each.times, per_token=per_token) for each in timed]
    timings = [[one, *two, *three] for one, two, three in zip(first, more, decoded, strict=True)]
    of_baseline, of_variant = (
        measurement_of(subject, latency.running, latency.times, quality)
        for subject, latency, quality in zip(subjects, timed, comparison.qualities, strict=True)
    )
    details = describe(footprints, timings, comparison, device, [*notes, *others])
    return Measured(of_baseline, of_variant, comparison, details)


def _evaluated(subject: Subject, latency: Latency, calls: Overdue) -> Forward:
    # A compiled model would compile again for a smaller last micro-batch; the function is the same.
    forward = subject.model if latency.running.engine == "TorchCompiled" else latency.running.forward

    def run(inputs: Tensor) -> Tensor:
        calls.begin()
        return forward(inputs)

    return run


def _decoding(
    pair: Sequence[Running],
    points: Sequence[Point],
    batch: Tensor,
    *,
    calls: Overdue,
    seconds: float,
    held_out: HeldOut,
) -> tuple[list[list[Timing]], list[str]]:
    """Prefill and decode, of what writes tokens one after another: of one sample, unless sizes are named."""
    if held_out.metric.target != "Token":
        return [[] for _ in pair], []
    limit = seconds * DECODING_SHARE
    if points:
        return time_decoding(pair, points, batch, calls, limit)
    return time_decoding(pair, [Point(1, batch.shape[1])], batch, calls, min(limit, DECODING_BUDGET_SECONDS))


def measured_batch(held_out: HeldOut) -> Tensor:
    """Inputs of one micro-batch of the first validation samples (fewer, if the split has fewer), on the CPU."""
    count = min(held_out.batch_size, held_out.data.num_validation_samples)
    inputs, _ = held_out.data.validation_batch(np.arange(count, dtype=np.int64))
    return inputs


def time_side_by_side(
    baseline: nn.Module,
    variant: nn.Module,
    batch: Tensor,
    *,
    engines: Sequence[EngineName],
    calls: Overdue,
    limit: float,
) -> tuple[Latency, Latency]:
    """Latency of both on `batch`, runs interleaved, each under its fastest engine.

    `engines` are the variant's; the baseline's are those of `engines_beside`. None of choosing, warming up and timing
    begins a run after `limit` seconds of it. The variant is compiled only if the baseline can be, too.

    Raises NotRetryable("ArtifactMismatch") if a model under TorchEager changes its input or does not repeat itself.
    """
    with torch.no_grad():
        eager = [_eager(model, batch, calls) for model in (baseline, variant)]
        own = [other for engine in engines if (other := _under(engine, variant, batch, eager[1], calls)) is not None]
        of_baseline = [
            other
            for engine in engines_beside(engines, batch.device)
            if (other := _under(engine, baseline, batch, eager[0], calls)) is not None
        ]
        if all(running.engine != "TorchCompiled" for running in of_baseline):
            own = [running for running in own if running.engine != "TorchCompiled"]
        chosen = (
            _fastest(of_baseline, batch, calls, limit),
            _fastest(own or [Running("TorchEager", variant)], batch, calls, limit),
        )
        with phase("Measuring"):
            alternate(chosen, batch, calls, limit, most=WARM_UP_RUNS)
            times = alternate(chosen, batch, calls, limit, least=MIN_RUNS, most=MAX_RUNS, budget=TIMING_BUDGET_SECONDS)
    first, second = (Latency(running, each) for running, each in zip(chosen, times, strict=True))
    return first, second


def _eager(model: nn.Module, batch: Tensor, calls: Overdue) -> Tensor:
    """The reference output for every engine. Raises NotRetryable like `time_side_by_side`."""
    with phase("Measuring") as pieces:
        calls.begin()
        expected = model(batch.clone())
        pieces.done()
        fault = _find_fault(model, batch, expected, REPEAT_TOLERANCE, calls)
    if fault is not None:
        raise NotRetryable("ArtifactMismatch", f"the model {fault}")
    return expected


def _under(engine: EngineName, model: nn.Module, batch: Tensor, expected: Tensor, calls: Overdue) -> Running | None:
    """`model` under `engine`; None, after one line with the reason, if that is impossible here."""
    if engine == "TorchEager":
        return Running(engine, model)
    begun = time.perf_counter()
    try:
        with warnings.catch_warnings(), phase("Compiling" if engine == "TorchCompiled" else "Measuring"):
            # The compile cache cannot find torchao's tensors again; they are compiled each time.
            warnings.filterwarnings("ignore", message=".*_stable_hash_for_caching")
            forward = start(engine, model)
            with calls.paused():
                forward(batch.clone())  # the first call compiles, which may take long
            compiling = None if engine == "TorchQuantized" else time.perf_counter() - begun
            fault = _find_fault(forward, batch, expected, ENGINE_TOLERANCE, calls)
    except Exception as error:  # noqa: BLE001  the compiler's own exceptions are many and private
        fault = f"cannot be run: {type(error).__name__}: {first_line(error)}"
    if fault is None:
        return Running(engine, forward, compiling)
    print(f"{engine} is left out: with it the model {fault}", flush=True)
    return None


def _fastest(candidates: Sequence[Running], batch: Tensor, calls: Overdue, limit: float) -> Running:
    if len(candidates) == 1:
        return candidates[0]
    with phase("Measuring"):
        times = alternate(candidates, batch, calls, limit, most=CHOOSING_RUNS)
    return min(zip(candidates, times, strict=True), key=lambda pair: pair[1].p50)[0]


def _find_fault(forward: Forward, batch: Tensor, expected: Tensor, tolerance: float, calls: Overdue) -> str | None:
    """What is wrong with two runs on the same input, if anything.

    Some compilers write into the caller's input, which gives a correct first answer and then wrong ones.
    """
    untouched = batch.clone()
    calls.begin()
    first = forward(batch).clone()
    calls.begin()
    second = forward(batch)
    if not torch.equal(batch, untouched):
        return "writes into its input"
    if not _close(second, first, REPEAT_TOLERANCE):
        return "gives different outputs for the same input"
    if not _close(first, expected, tolerance):
        return "gives other outputs than under TorchEager"
    return None


def _close(output: Tensor, expected: Tensor, tolerance: float) -> bool:
    difference = torch.linalg.vector_norm(output.float() - expected.float())
    return bool(difference <= tolerance * torch.linalg.vector_norm(expected.float()))
