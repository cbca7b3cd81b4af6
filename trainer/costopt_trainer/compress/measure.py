"""Size, latency and validation loss of a variant and of the baseline it was made from, in one process.

    measure             both, as schema.variant_report.Measurement
    count_parameters    parameters, and how many are not zero
    time_side_by_side   median latency of each, interleaved, under the fastest engine of each

Latency is the median time of one forward pass, without gradients and in the weights' own precision, of one batch: the
micro-batch of the recipe (or of `evaluation`), filled with the first validation samples. Runs alternate (baseline,
variant, baseline, ...) after a warm-up, so that other load on the machine affects both equally. Each runs under its
fastest engine among those that the variant is meant for; an engine that cannot run here (no C++ compiler), or computes
something else, is left out with one line.

Measuring takes a bounded time, however slow a model is: see the limits below, quality.py and overdue.py.
"""

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from costopt.schema.variant_report import EngineName, Measurement
from costopt_trainer.compress.engines import Forward, start
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.quality import Comparison, Quality, compare_quality
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.phases import phase

WARM_UP_RUNS = 3
MIN_RUNS, MAX_RUNS = 15, 200
CHOOSING_RUNS = 5
"""Of each engine, if there are several."""
TIMING_BUDGET_SECONDS = 5.0
"""Timing stops after this long, or after MAX_RUNS, but not before MIN_RUNS of each."""
TIMING_LIMIT_SECONDS = 20.0
"""And after this long in any case, even with one run of each. Warm-up and choosing have the same limit."""

REPEAT_TOLERANCE = 0.01
"""Largest difference between two runs on the same input, relative to the output's norm."""
ENGINE_TOLERANCE = 0.15
"""Largest difference between an engine's output and TorchEager's. Activations quantized in another order of operations
round differently (usually 0.01 to 0.09); an output overwritten or computed wrongly differs by 1 or more."""


@dataclass(frozen=True)
class Subject:
    """A model to measure, and the size of its weights file."""

    model: LayeredModel
    """In eval mode."""
    size_bytes: int


@dataclass(frozen=True)
class Running:
    """A model under an engine."""

    engine: EngineName
    forward: Forward


@dataclass(frozen=True)
class Latency:
    """The engine a model was timed under, and its median time of one forward pass in microseconds."""

    running: Running
    microseconds: int


@dataclass(frozen=True)
class Measured:
    """Both measurements, and their samples."""

    baseline: Measurement
    variant: Measurement
    comparison: Comparison


def measure(
    baseline: Subject,
    variant: Subject,
    *,
    name: str,
    held_out: HeldOut,
    engines: Sequence[EngineName],
    device: torch.device,
) -> Measured:
    """Measure `baseline` and `variant`, whose name is `name`; both models are moved to `device`.

    `engines` are those that the variant is meant for. Raises NotRetryable("LossNotFinite") if a loss is not a number,
    and NotRetryable("ArtifactMismatch") if a model changes its input or is not repeatable. A single run that takes
    minutes ends the process (see overdue.py).
    """
    for subject in (baseline, variant):
        subject.model.to(device)
    batch = measured_batch(held_out).to(device)
    with Overdue(name) as calls:
        timed = time_side_by_side(baseline.model, variant.model, batch, engines=engines, calls=calls)

        def evaluated(subject: Subject, latency: Latency) -> Forward:
            # A compiled model would compile again for a smaller last micro-batch; the function is the same.
            forward = subject.model if latency.running.engine == "TorchCompiled" else latency.running.forward

            def run(inputs: Tensor) -> Tensor:
                calls.begin()
                return forward(inputs)

            return run

        comparison = compare_quality(
            [evaluated(subject, latency) for subject, latency in zip((baseline, variant), timed, strict=True)],
            held_out,
            device,
            baseline.model.own_metrics,
        )
    of_baseline, of_variant = (
        _measurement(subject, latency, quality)
        for subject, latency, quality in zip((baseline, variant), timed, comparison.qualities, strict=True)
    )
    return Measured(of_baseline, of_variant, comparison)


def measured_batch(held_out: HeldOut) -> Tensor:
    """Inputs of one micro-batch of the first validation samples (fewer, if the split has fewer), on the CPU."""
    count = min(held_out.batch_size, held_out.data.num_validation_samples)
    inputs, _ = held_out.data.validation_batch(np.arange(count, dtype=np.int64))
    return inputs


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters of `model`, and how many of them are not zero. A quantized weight counts as one parameter."""
    total = nonzero = 0
    for parameter in model.parameters():
        total += parameter.numel()
        # Symmetric int8 data is zero exactly where its weight is.
        stored = getattr(parameter, "qdata", parameter)
        nonzero += int(torch.count_nonzero(stored.detach()))
    return total, nonzero


def time_side_by_side(
    baseline: nn.Module, variant: nn.Module, batch: Tensor, *, engines: Sequence[EngineName], calls: Overdue
) -> tuple[Latency, Latency]:
    """Median latency of both on `batch`, runs interleaved, each under its fastest engine.

    Either is compiled only if both can be.

    Raises NotRetryable("ArtifactMismatch") if a model under TorchEager changes its input or does not repeat itself.
    """
    with torch.no_grad():
        eager = [_eager(model, batch, calls) for model in (baseline, variant)]
        own = [other for engine in engines if (other := _under(engine, variant, batch, eager[1], calls)) is not None]
        theirs = None
        if any(running.engine == "TorchCompiled" for running in own):
            theirs = _under("TorchCompiled", baseline, batch, eager[0], calls)
            if theirs is None:
                own = [running for running in own if running.engine != "TorchCompiled"]
        candidates = [Running("TorchEager", baseline), *([theirs] if theirs else [])]
        chosen = (
            _fastest(candidates, batch, calls),
            _fastest(own or [Running("TorchEager", variant)], batch, calls),
        )
        with phase("Measuring"):
            _alternate(chosen, batch, calls, most=WARM_UP_RUNS)
            times = _alternate(chosen, batch, calls, least=MIN_RUNS, most=MAX_RUNS, budget=TIMING_BUDGET_SECONDS)
    first, second = (
        Latency(running, round(statistics.median(seconds) * 1e6))
        for running, seconds in zip(chosen, times, strict=True)
    )
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
    try:
        with warnings.catch_warnings(), phase("Compiling" if engine == "TorchCompiled" else "Measuring"):
            # The compile cache cannot find torchao's tensors again; they are compiled each time.
            warnings.filterwarnings("ignore", message=".*_stable_hash_for_caching")
            forward = start(engine, model)
            with calls.paused():
                forward(batch.clone())  # the first call compiles, which may take long
            fault = _find_fault(forward, batch, expected, ENGINE_TOLERANCE, calls)
    except Exception as error:  # noqa: BLE001  the compiler's own exceptions are many and private
        fault = f"cannot be run: {type(error).__name__}: {first_line(error)}"
    if fault is None:
        return Running(engine, forward)
    print(f"{engine} is left out: with it the model {fault}", flush=True)
    return None


def _fastest(candidates: Sequence[Running], batch: Tensor, calls: Overdue) -> Running:
    if len(candidates) == 1:
        return candidates[0]
    with phase("Measuring"):
        times = _alternate(candidates, batch, calls, most=CHOOSING_RUNS)
    return min(zip(candidates, times, strict=True), key=lambda pair: statistics.median(pair[1]))[0]


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


def _alternate(
    several: Sequence[Running], batch: Tensor, calls: Overdue, *, least: int = 1, most: int, budget: float = 0.0
) -> list[list[float]]:
    """Seconds of each run of each, in turn: `most` of each, or at least `least` and as many as `budget` seconds allow.

    Regardless of `least`, none begins after TIMING_LIMIT_SECONDS.
    """
    times: list[list[float]] = [[] for _ in several]
    begun = time.perf_counter()
    budget = budget or TIMING_LIMIT_SECONDS
    with phase("Measuring") as pieces:
        for number in range(most):
            gone = time.perf_counter() - begun
            if number and (gone > TIMING_LIMIT_SECONDS or (number >= least and gone > budget)):
                break
            for running, seconds in zip(several, times, strict=True):
                calls.begin()
                seconds.append(_time_once(running.forward, batch))
                pieces.done()
    return times


def _time_once(forward: Forward, batch: Tensor) -> float:
    _wait_for(batch.device)
    begun = time.perf_counter()
    forward(batch)
    _wait_for(batch.device)
    return time.perf_counter() - begun


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _measurement(subject: Subject, latency: Latency, quality: Quality) -> Measurement:
    parameters, nonzero = count_parameters(subject.model)
    return Measurement(
        size_bytes=subject.size_bytes,
        parameters=parameters,
        nonzero_permille=nonzero * 1000 // parameters,
        latency_microseconds=latency.microseconds,
        validation_loss=f"{quality.loss:.6g}",
        validation_accuracy_permille=None if quality.accuracy is None else round(1000 * quality.accuracy),
        validation_macro_f1_permille=None if quality.macro_f1 is None else round(1000 * quality.macro_f1),
        metrics={name: f"{mean:.6g}" for name, mean in quality.metrics.items()},
        engine=latency.running.engine,
    )
