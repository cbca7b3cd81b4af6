"""The sizes of batch and sequence at which a variant is timed, and the timings there.

points_of      what the user asked for, checked against the model and its data
inputs_at      inputs of such a size
time_points    variant and baseline in turn, at each size
"""

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

    `batch_size` and `context_length` (None: samples are no tokens) are what holds for what is left out. Raises
    NotRetryable("InvalidSettings") for more tokens than the model has seen, and for any of what reads no tokens.
    """
    if wanted is None:
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
    pair: Sequence[Running], points: Sequence[Point], batch: Tensor, calls: Overdue, limit: float, *, per_token: bool
) -> tuple[list[list[Timing]], list[str]]:
    """Timings of each of `pair` at each of `points`, and a sentence for each size at which one of them cannot run.

    Timing takes about `limit` seconds in all, beside compiling. `per_token`: what goes through is counted in tokens.
    """
    timings: list[list[Timing]] = [[] for _ in pair]
    notes: list[str] = []
    each = limit / max(len(points), 1)
    for point in points:
        inputs = inputs_at(batch, point)
        try:
            with torch.no_grad():
                _get_ready(pair, inputs, calls)
                alternate(pair, inputs, calls, each / 4, most=WARM_UP)
                several = alternate(pair, inputs, calls, each * 3 / 4, least=LEAST, most=MOST)
        except Exception as error:  # noqa: BLE001  an engine's own exceptions are many and private
            notes.append(f"not timed at {point.told}: {type(error).__name__}: {first_line(error)}"[:256])
            continue
        for collected, running, times in zip(timings, pair, several, strict=True):
            collected.append(timing_of("Forward", point, running, times, per_token=per_token))
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


def _get_ready(pair: Sequence[Running], inputs: Tensor, calls: Overdue) -> None:
    """A compiler may compile anew for another size, which may take long."""
    for running in pair:
        if running.compile_seconds is not None:
            with phase("Compiling"), calls.paused():
                running.forward(inputs)
