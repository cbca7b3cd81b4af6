"""A variant and the baseline it was made from, measured in one process: the order of what is measured, and its time.

    measure             all of it: figures for the status, and details for report.json
    time_side_by_side   latency of each, interleaved, under the fastest engine of each

Latency is the time of one forward pass, without gradients and in the weights' own precision, of one batch: the
micro-batch of the recipe (or of `evaluation`), filled with the first validation samples. Runs alternate (baseline,
variant, baseline, ...) after a warm-up, so that other load on the machine affects both equally. Each runs under its
fastest engine: the variant among those that it is meant for, the baseline among these and what else this machine has
(`engines_beside`), so that a speed-up is never only that of an engine. One that cannot run here (no C++ compiler), or
computes something else, is left out with one line. The figures of those that lost are in the report, too.

What is measured beside latency has files of its own: quality.py, points.py (other sizes), decoding.py (token by token),
footprint.py (memory and multiplications). Measuring takes a bounded time, however slow a model is: see the shares of it
below, and overdue.py.
"""

import itertools
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from costopt.schema.variant_details import MAX_NOTES, Timing, VariantDetails
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
from costopt_trainer.models.onnx_model import OnnxModel
from costopt_trainer.phases import phase

WARM_UP_RUNS = 3
MIN_RUNS, MAX_RUNS = 15, 200
CHOOSING_RUNS = 5
"""Of each engine, if there are several; where the user names engines, as many more as the timing may have."""
TIMING_BUDGET_SECONDS = 5.0
"""Timing stops after this long, or after MAX_RUNS, but not before MIN_RUNS of each."""
TIMING_SHARE, QUALITY_SHARE, POINTS_SHARE, DECODING_SHARE = 1 / 10, 4 / 10, 1 / 10, 1 / 10
"""Of the time that measuring may take: timing ends then in any case, even with one run of each, and so does warm-up;
trying engines and choosing from them have twice that. And what the losses are evaluated in; and what other sizes, and
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
    """The engine that a model is judged under, and the times of its passes."""

    running: Running
    times: Times
    others: tuple[tuple[Running, Times], ...] = ()
    """The same of the other engines that were tried."""
    left_out: tuple[str, ...] = ()
    """A sentence for each engine that the model cannot run under here."""

    @property
    def microseconds(self) -> int:
        """The median."""
        return self.times.p50

    @property
    def all(self) -> list[tuple[Running, Times]]:
        """The engine that it is judged under, then the others."""
        return [(self.running, self.times), *self.others]


@dataclass(frozen=True)
class Measured:
    """Both measurements, their samples, and what else is known."""

    baseline: Measurement
    variant: Measurement
    comparison: Comparison
    details: VariantDetails
    as_graph: bool = False
    """Whether the variant's size is that of its ONNX graph."""


def measure(
    baseline: Subject,
    variant: Subject,
    *,
    name: str,
    held_out: HeldOut,
    engines: Sequence[EngineName],
    named: Sequence[EngineName] = (),
    device: torch.device,
    seconds: float,
    points: Sequence[Point] = (),
    decoding: bool = True,
) -> Measured:
    """Measure `baseline` and `variant`, whose name is `name`, in about `seconds`; both models are moved to `device`.

    `engines` are those that the variant is meant for, of which the fastest is judged; `named` those that the user wants
    figures of; `points` further sizes to time passes at; `decoding`: whether prefill and decode are timed, of what has
    them. Raises NotRetryable("LossNotFinite") if a loss is not a number, and NotRetryable("ArtifactMismatch") if a
    model changes its input or is not repeatable. A single run that takes minutes ends the process (see overdue.py).
    """
    subjects = (baseline, variant)
    for subject in subjects:
        subject.model.to(device)
    batch = measured_batch(held_out).to(device)
    with Overdue(name) as calls:
        timed = time_side_by_side(
            baseline.model,
            variant.model,
            batch,
            engines=engines,
            named=named,
            calls=calls,
            limit=seconds * TIMING_SHARE,
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
        others = [[running for running, _ in each.others if running.engine in named] for each in timed]
        of_points, left_points = time_points(
            [*pair, *others[0], *others[1]], points, batch, calls, seconds * POINTS_SHARE, per_token=per_token
        )
        slowest = max(latency.times.p50 for latency in timed) / 1e6 / len(batch)
        decoded, left_decoding = (
            _decoding(pair, points, batch, calls=calls, seconds=seconds, held_out=held_out, sample_seconds=slowest)
            if decoding
            else ([[] for _ in pair], [])
        )
        needs = [
            footprint_of(subject, latency.running, latency.times.p50, batch, calls=calls, seconds=seconds)
            for subject, latency in zip(subjects, timed, strict=True)
        ]
    here = Point(len(batch), None if batch.is_floating_point() else batch.shape[1])
    second = 2 + len(others[0])
    at_points = [[of_points[0], *of_points[2:second]], [of_points[1], *of_points[second:]]]
    timings = [
        [
            *(timing_of("Forward", here, *one, per_token=per_token) for one in latency.all),
            *itertools.chain(*at_point),
            *written,
        ]
        for latency, at_point, written in zip(timed, at_points, decoded, strict=True)
    ]
    notes = [
        *_told(latency.left_out for latency in timed),
        *left_points,
        *left_decoding,
        *_told(lines for _, lines in needs),
    ]
    of_baseline, of_variant = (
        measurement_of(subject, latency.running, latency.times, quality)
        for subject, latency, quality in zip(subjects, timed, comparison.qualities, strict=True)
    )
    details = describe([footprint for footprint, _ in needs], timings, comparison, device, notes[:MAX_NOTES])
    return Measured(of_baseline, of_variant, comparison, details)


def _told(of_each: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of the model and of the variant, as notes."""
    for side, lines in zip(("the model", "the variant"), of_each, strict=True):
        yield from (f"{side}: {line}"[:256] for line in lines)


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
    sample_seconds: float,
) -> tuple[list[list[Timing]], list[str]]:
    """Prefill and decode, of what writes tokens one after another: of one sample, unless sizes are named. A pass takes
    `sample_seconds` for each sample."""
    if held_out.metric.target != "Token":
        return [[] for _ in pair], []
    limit = seconds * DECODING_SHARE
    wanted = points or [Point(1, batch.shape[1])]
    limit = limit if points else min(limit, DECODING_BUDGET_SECONDS)
    return time_decoding(pair, wanted, batch, calls, limit, sample_seconds=sample_seconds)


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
    named: Sequence[EngineName] = (),
    calls: Overdue,
    limit: float,
) -> tuple[Latency, Latency]:
    """Latency of both on `batch`, runs interleaved, each under its fastest engine; and under the others.

    The variant's is one of `engines`; `named` are tried beside. The baseline's are those of `engines_beside` all these.
    Neither warming up nor timing begins a run after `limit` seconds of it, trying and choosing none after twice that.
    The variant is compiled only if the baseline can be, too.

    Raises NotRetryable("ArtifactMismatch") if a model under TorchEager changes its input or does not repeat itself.
    """
    tried = tuple(dict.fromkeys([*engines, *named]))
    trying = _Trying(batch, calls, 2 * limit)
    with torch.no_grad():
        expected = [trying.eager(model) for model in (baseline, variant)]
        own, left_of_own = trying.each(tried, variant, expected[1], tried[0])
        of_baseline, left_of_baseline = trying.each(
            engines_beside(tried, batch.device), baseline, expected[0], tried[0]
        )
        if all(running.engine != "TorchCompiled" for running in of_baseline):
            own = [running for running in own if running.engine != "TorchCompiled"]
        if all(running.engine not in engines for running in own):
            own = [Running("TorchEager", variant), *(one for one in own if one.engine != "TorchEager")]
        # A graph that the model could not be given, for lack of time or of room, would be an engine's gain alone.
        alike = {running.engine for running in of_baseline} | {"TorchEager", "TorchQuantized", tried[0]}
        judged = [running for running in own if running.engine in engines and running.engine in alike] or own[:1]
        passes = _choosing(of_baseline, own, batch, calls, trying.left(), many=bool(named))
        chosen = _fastest(of_baseline, passes), _fastest(judged, passes)
        with phase("Measuring"):
            alternate(chosen, batch, calls, limit, most=WARM_UP_RUNS)
            times = alternate(chosen, batch, calls, limit, least=MIN_RUNS, most=MAX_RUNS, budget=TIMING_BUDGET_SECONDS)
    first, second = (
        Latency(best, each, tuple((one, passes[id(one)]) for one in all_ if one is not best), tuple(left))
        for best, each, all_, left in zip(
            chosen, times, (of_baseline, own), (left_of_baseline, left_of_own), strict=True
        )
    )
    return first, second


@dataclass
class _Trying:
    """Finds out which engines a model can run under, in a bounded time: where models are slow, the first engine that a
    variant is meant for, and then no more."""

    batch: Tensor
    calls: Overdue
    limit: float
    """Seconds of runs, beside compiling, after which no further engine is tried."""
    spent: float = field(default=0.0, init=False)

    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.limit - self.spent)

    def eager(self, model: nn.Module) -> Tensor:
        """The reference output for every engine. Raises NotRetryable like `time_side_by_side`."""
        begun = time.perf_counter()
        with phase("Measuring") as pieces:
            self.calls.begin()
            expected = model(self.batch.clone())
            pieces.done()
            fault = _find_fault(model, self.batch, expected, REPEAT_TOLERANCE, self.calls)
        if fault is not None:
            raise NotRetryable("ArtifactMismatch", f"the model {fault}")
        self.spent += time.perf_counter() - begun
        return expected

    def each(
        self, engines: Sequence[EngineName], model: nn.Module, expected: Tensor, first: EngineName
    ) -> tuple[list[Running], list[str]]:
        """`model` under each of `engines` that it can run under, and a sentence for each other. `first` is tried though
        no time is left."""
        found: list[Running] = []
        left_out: list[str] = []
        for number, engine in enumerate(engines):
            if engine == "TorchEager" and not isinstance(model, OnnxModel):
                found.append(Running(engine, model, in_torch=model))
                continue
            if engine != "OnnxRuntime" and isinstance(model, OnnxModel):
                why: str | None = "exists only as an ONNX graph"
            elif number and engine != first and self.left() == 0:
                why = "is so slow that measureSeconds leaves no time to try it"
            else:
                running, why = self.under(engine, model, expected)
                found += [] if running is None else [running]
            if why is not None:
                left_out.append(f"{engine} is left out: with it the model {why}")
                print(left_out[-1], flush=True)
        return found, left_out

    def under(self, engine: EngineName, model: nn.Module, expected: Tensor) -> tuple[Running | None, str | None]:
        """`model` under `engine`; or why that is impossible here."""
        begun, compiled = time.perf_counter(), None
        try:
            with warnings.catch_warnings(), phase("Measuring" if engine == "TorchQuantized" else "Compiling"):
                # The compile cache cannot find torchao's tensors again; they are compiled each time.
                warnings.filterwarnings("ignore", message=".*_stable_hash_for_caching")
                forward = start(engine, model)
                with self.calls.paused():
                    forward(self.batch.clone())  # the first call compiles, which may take long
                compiled = time.perf_counter()
                fault = _find_fault(forward, self.batch, expected, ENGINE_TOLERANCE, self.calls)
        except Exception as error:  # noqa: BLE001  the compiler's own exceptions are many and private
            fault = f"cannot be run: {type(error).__name__}: {first_line(error)}"
        self.spent += 0.0 if compiled is None else time.perf_counter() - compiled
        if fault is not None or compiled is None:
            return None, fault
        compiling = None if engine == "TorchQuantized" else compiled - begun
        if engine == "OnnxRuntime":
            compiling = compiled - begun + float(getattr(model, "graph_seconds", 0.0))
        in_torch = None if isinstance(model, OnnxModel) else model
        return Running(engine, forward, compiling, in_torch), None


def _choosing(
    of_baseline: Sequence[Running],
    own: Sequence[Running],
    batch: Tensor,
    calls: Overdue,
    limit: float,
    *,
    many: bool,
) -> dict[int, Times]:
    """Times of all candidates, in turn, by their ids; none where neither model has a choice."""
    if len(of_baseline) == len(own) == 1:
        return {}
    candidates = [*of_baseline, *own]
    most, budget = (MAX_RUNS, TIMING_BUDGET_SECONDS) if many else (CHOOSING_RUNS, 0.0)
    with phase("Measuring"):
        times = alternate(candidates, batch, calls, limit, least=CHOOSING_RUNS, most=most, budget=budget)
    return {id(running): each for running, each in zip(candidates, times, strict=True)}


def _fastest(candidates: Sequence[Running], passes: Mapping[int, Times]) -> Running:
    return min(candidates, key=lambda running: passes[id(running)].p50) if len(candidates) > 1 else candidates[0]


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
