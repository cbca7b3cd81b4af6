"""The sizes of batch and sequence at which a variant is timed, and the timings there.

points_of      what the user asked for, checked against the model and its data
inputs_at      inputs of such a size
time_points    variant and baseline in turn, at each size
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from costopt.schema.compression import Measure
from costopt.schema.variant_details import Timing
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.timing import Running, Times, alternate
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.phases import phase
from costopt_trainer.reporting.meter import figure

LEAST, MOST = 10, 100
"""Passes at each size, if the time allows for so many."""
WARM_UP = 2
CHOSEN = 2
"""The model and the variant, under the engines that they are judged under."""


@dataclass(frozen=True)
class Point:
    """A size to time passes at."""

    batch_size: int
    sequence_length: int | None
    """Tokens of a sample; None where samples are no tokens."""

    @property
    def told(self) -> str:
        """In words."""
        tokens = "" if self.sequence_length is None else f", sequence length {self.sequence_length}"
        return f"batch size {self.batch_size}{tokens}"


def points_of(wanted: Measure | None, *, batch_size: int, context_length: int | None) -> list[Point]:
    """The sizes that the user asks for; none if `wanted` is None.

    `batch_size` and `context_length` (None: samples are no tokens) are what holds for what is left out, if not both
    are. Raises
    NotRetryable("InvalidSettings") for more tokens than the model has seen, and for any of what reads no tokens.
    """
    if wanted is None or (wanted.batch_sizes is None and wanted.sequence_lengths is None):
        return []
    lengths = wanted.sequence_lengths
    if lengths is not None and context_length is None:
        raise NotRetryable("InvalidSettings", "measure.sequenceLengths must not be set: this model reads no tokens")
    if lengths is not None and context_length is not None and max(lengths) > context_length:
        raise NotRetryable(
            "InvalidSettings",
            f"measure.sequenceLengths must be at most {context_length}, the context length of the model, not "
            f"{max(lengths)}",
        )
    of_each: list[int | None] = [context_length] if lengths is None else [*lengths]
    return [
        Point(size, length)
        for size in dict.fromkeys(wanted.batch_sizes or [batch_size])
        for length in dict.fromkeys(of_each)
    ]


def inputs_at(batch: Tensor, point: Point) -> Tensor:
    """Inputs (B, ...) of this size from `batch`, whose samples are repeated if they are fewer."""
    places = torch.arange(point.batch_size, device=batch.device) % len(batch)
    inputs = batch[places]
    return inputs if point.sequence_length is None else inputs[:, : point.sequence_length].contiguous()


def time_points(
    several: Sequence[Running], points: Sequence[Point], batch: Tensor, calls: Overdue, limit: float, *, per_token: bool
) -> tuple[list[list[Timing]], list[str]]:
    """Timings of each of `several` at each of `points`, and a sentence for each size at which one cannot run.

    The first two are the model and the variant: what one of them cannot be timed at, nothing is. It takes about `limit`
    seconds in all, beside compiling; sizes that are not reached by then are left out. `per_token`: what goes through is
    counted in tokens.
    """
    timings: list[list[Timing]] = [[] for _ in several]
    notes: list[str] = []
    each = limit / max(len(points), 1)
    end = time.perf_counter() + limit
    for number, point in enumerate(points):
        if number and time.perf_counter() > end:
            notes.append(f"not timed at {point.told}: measureSeconds leaves no time for it")
            continue
        inputs = inputs_at(batch, point)
        try:
            with torch.no_grad():
                able = _able(several, inputs, calls, notes, point)
                begun = time.perf_counter()
                running = [several[place] for place in able]
                alternate(running, inputs, calls, each / 4, most=WARM_UP)
                left = max(0.0, each - (time.perf_counter() - begun))
                passes = alternate(running, inputs, calls, left, least=LEAST, most=MOST)
        except Exception as error:  # noqa: BLE001  an engine's own exceptions are many and private
            notes.append(f"not timed at {point.told}: {type(error).__name__}: {first_line(error)}"[:256])
            continue
        for place, times in zip(able, passes, strict=True):
            timings[place].append(timing_of("Forward", point, several[place], times, per_token=per_token))
    return timings, notes


def timing_of(kind: str, point: Point, running: Running, times: Times, *, per_token: bool) -> Timing:
    """A row of the report."""
    amount = point.batch_size * ((point.sequence_length or 1) if per_token else 1)
    return Timing.model_validate(
        {
            "kind": kind,
            "batch_size": point.batch_size,
            "sequence_length": point.sequence_length,
            "engine": running.engine,
            "runs": len(times.seconds),
            "p50_microseconds": times.p50,
            "p95_microseconds": times.p95,
            "per_second": figure(times.rate(amount)),
        }
    )


def _able(several: Sequence[Running], inputs: Tensor, calls: Overdue, notes: list[str], point: Point) -> list[int]:
    """Places of what can run on `inputs`; a sentence is added to `notes` for each that cannot. Raises whatever the
    first two do. A compiler may compile anew for another size, which may take long."""
    able = []
    for place, running in enumerate(several):
        try:
            if running.compile_seconds is not None:
                with phase("Compiling"), calls.paused():
                    running.forward(inputs)
            elif place >= CHOSEN:
                calls.begin()
                running.forward(inputs)
        except Exception as error:
            if place < CHOSEN:
                raise
            told = f"{type(error).__name__}: {first_line(error)}"
            notes.append(f"not timed at {point.told} under {running.engine}: {told}"[:256])
        else:
            able.append(place)
    return able
