"""Size, latency and validation loss of a variant and of the baseline it was made from, in one process.

    measure             both, as schema.status.Measurement
    count_parameters    parameters, and how many are not zero
    time_side_by_side   median latency of each, interleaved

Latency is the median time of one forward pass, without gradients and in the weights' own precision, of one batch: the
micro-batch of the recipe, filled with the first validation samples. Runs alternate (baseline, variant, baseline, ...)
after a warm-up, so that whatever else the machine does meets both alike. If the variant is meant for torch.compile,
the baseline is compiled too; if one of them cannot be compiled here (no C++ compiler), neither is.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from costopt.schema.recipe import Recipe
from costopt.schema.variant_report import Measurement
from costopt_trainer.data import TrainingData
from costopt_trainer.errors import NotRetryable
from costopt_trainer.evaluate import validation_totals
from costopt_trainer.phases import phase

Forward = Callable[[Tensor], Tensor]

WARM_UP_RUNS = 3
MIN_RUNS, MAX_RUNS = 15, 200
TIMING_BUDGET_SECONDS = 5.0
"""Timing stops after this long, or after MAX_RUNS, but never before MIN_RUNS of each."""

REPEAT_TOLERANCE = 0.01
"""Largest difference between two runs on the same input, relative to the output's norm."""
COMPILED_TOLERANCE = 0.1
"""Largest difference between compiled and uncompiled output. Activations quantized in another order of operations
round differently (about 0.02 is usual); an output overwritten or computed wrongly differs by 1 and more."""


@dataclass(frozen=True)
class Subject:
    """A model to measure, and the size of its weights file."""

    model: nn.Module
    """In eval mode."""
    size_bytes: int


@dataclass(frozen=True)
class Latencies:
    """Median time of one forward pass of each, in microseconds."""

    baseline: int
    variant: int
    compiled: bool


def measure(
    baseline: Subject, variant: Subject, *, recipe: Recipe, data: TrainingData, compiled: bool, device: torch.device
) -> tuple[Measurement, Measurement]:
    """The measurements of `baseline` and `variant`, in that order; both models are moved to `device`.

    `compiled` asks for torch.compile. Raises NotRetryable("LossNotFinite") if a loss is not a number, and
    NotRetryable("ArtifactMismatch") if a model changes its input or does not repeat itself.
    """
    for subject in (baseline, variant):
        subject.model.to(device)
    batch = measured_batch(recipe, data).to(device)
    latencies = time_side_by_side(baseline.model, variant.model, batch, compiled=compiled)
    baseline_loss = validation_loss(baseline.model, recipe, data, device)
    variant_loss = validation_loss(variant.model, recipe, data, device)
    return (
        _measurement(baseline, latencies.baseline, latencies.compiled, baseline_loss),
        _measurement(variant, latencies.variant, latencies.compiled, variant_loss),
    )


def measured_batch(recipe: Recipe, data: TrainingData) -> Tensor:
    """Inputs of one micro-batch of the first validation samples (fewer, if the split has fewer), on the CPU."""
    count = min(recipe.batch.micro_batch_size, data.num_validation_samples)
    inputs, _ = data.validation_batch(np.arange(count, dtype=np.int64))
    return inputs


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters of `model`, and how many of them are not zero. A quantized weight counts as one parameter."""
    total = nonzero = 0
    for parameter in model.parameters():
        total += parameter.numel()
        # Symmetric int8 data is zero exactly where the weight it stands for is.
        stored = getattr(parameter, "qdata", parameter)
        nonzero += int(torch.count_nonzero(stored.detach()))
    return total, nonzero


def time_side_by_side(baseline: nn.Module, variant: nn.Module, batch: Tensor, *, compiled: bool) -> Latencies:
    """Median latency of both on `batch`, runs interleaved. Compiles both or, if that fails for one, neither.

    Raises NotRetryable("ArtifactMismatch") if an uncompiled model changes its input or does not repeat itself.
    """
    forwards: tuple[Forward, Forward] = (baseline, variant)
    with torch.no_grad():
        with phase("Measuring") as pieces:
            expected = tuple(forward(batch.clone()) for forward in forwards)
            for forward, output in zip(forwards, expected, strict=True):
                pieces.done()
                fault = _find_fault(forward, batch, output, REPEAT_TOLERANCE)
                if fault is not None:
                    raise NotRetryable("ArtifactMismatch", f"the model {fault}")
        if compiled:
            forwards, compiled = _compile_both(baseline, variant, batch, expected)
        times = _alternate(forwards, batch)
    return Latencies(
        baseline=round(statistics.median(times[0]) * 1e6),
        variant=round(statistics.median(times[1]) * 1e6),
        compiled=compiled,
    )


def _compile_both(
    baseline: nn.Module, variant: nn.Module, batch: Tensor, expected: tuple[Tensor, ...]
) -> tuple[tuple[Forward, Forward], bool]:
    """Both compiled and True, or both as they are and False, after one line that says why."""
    try:
        with warnings.catch_warnings(), phase("Compiling"):
            # torchao's tensors cannot be found in the compile cache again; they are compiled each time.
            warnings.filterwarnings("ignore", message=".*_stable_hash_for_caching")
            forwards: tuple[Forward, Forward] = (torch.compile(baseline), torch.compile(variant))
            faults = [
                _find_fault(*pair, COMPILED_TOLERANCE) for pair in zip(forwards, (batch, batch), expected, strict=True)
            ]
    except Exception as error:  # noqa: BLE001  the compiler's own exceptions are many and private
        why = f"torch.compile is not possible here ({type(error).__name__})"
    else:
        fault = next((fault for fault in faults if fault is not None), None)
        if fault is None:
            return forwards, True
        why = f"compiled, the model {fault}"
    print(f"{why}: baseline and variant are both measured uncompiled", flush=True)
    return (baseline, variant), False


def _find_fault(forward: Forward, batch: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """What is wrong with two runs on the same input, if anything.

    Compilers have been seen to write into the caller's input, which gives a right first answer and then wrong ones.
    """
    untouched = batch.clone()
    first = forward(batch).clone()
    second = forward(batch)
    if not torch.equal(batch, untouched):
        return "writes into its input"
    if not _close(second, first, REPEAT_TOLERANCE):
        return "gives different outputs for the same input"
    if not _close(first, expected, tolerance):
        return "gives other outputs than uncompiled"
    return None


def _close(output: Tensor, expected: Tensor, tolerance: float) -> bool:
    difference = torch.linalg.vector_norm(output.float() - expected.float())
    return bool(difference <= tolerance * torch.linalg.vector_norm(expected.float()))


def _alternate(forwards: tuple[Forward, Forward], batch: Tensor) -> tuple[list[float], list[float]]:
    """Seconds of each run of the first and of the second, alternating."""
    times: tuple[list[float], list[float]] = ([], [])
    with phase("Measuring") as pieces:
        for _ in range(WARM_UP_RUNS):
            for forward in forwards:
                _time_once(forward, batch)
                pieces.done()
        end = time.perf_counter() + TIMING_BUDGET_SECONDS
        while len(times[0]) < MIN_RUNS or (len(times[0]) < MAX_RUNS and time.perf_counter() < end):
            for forward, seconds in zip(forwards, times, strict=True):
                seconds.append(_time_once(forward, batch))
                pieces.done()
    return times


def _time_once(forward: Forward, batch: Tensor) -> float:
    _wait_for(batch.device)
    start = time.perf_counter()
    forward(batch)
    _wait_for(batch.device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def validation_loss(model: nn.Module, recipe: Recipe, data: TrainingData, device: torch.device) -> float:
    """Mean loss in nats over the same held-out targets that training evaluates on.

    No autocast, whatever the recipe's precision: the loss is that of the weights as they are stored. Raises
    NotRetryable("LossNotFinite") if it is infinite or not a number.
    """
    with phase("Evaluating") as pieces:

        def go_on(finished: int, of: int) -> bool:
            pieces.done(finished, of)
            return True

        totals = validation_totals(
            model,
            data,
            max_samples=recipe.evaluation.max_samples,
            micro_batch_size=recipe.batch.micro_batch_size,
            device=device,
            go_on=go_on,
        )
    if totals is None:
        raise AssertionError("an evaluation that is not told to end does not")
    loss = totals.loss_sum / totals.num_targets
    if not math.isfinite(loss):
        raise NotRetryable("LossNotFinite", f"the validation loss is {loss}, so the variant cannot be compared")
    return loss


def _measurement(subject: Subject, latency_microseconds: int, compiled: bool, loss: float) -> Measurement:
    parameters, nonzero = count_parameters(subject.model)
    return Measurement(
        size_bytes=subject.size_bytes,
        parameters=parameters,
        nonzero_permille=nonzero * 1000 // parameters,
        latency_microseconds=latency_microseconds,
        validation_loss=f"{loss:.6g}",
        compiled=compiled,
    )
