"""Passes of several models in turn, timed.

Running      a model under an engine; Times: the seconds of its passes
alternate    passes of each, in turn, so that other load on the machine affects all equally
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from costopt.schema.variant_report import EngineName
from costopt_trainer.compress.engines import Forward
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.phases import phase

Result = TypeVar("Result")


@dataclass(frozen=True)
class Running:
    """A model under an engine."""

    engine: EngineName
    forward: Forward
    compile_seconds: float | None = None
    """How long it took until the first pass was through; None if there was nothing to compile."""
    in_torch: nn.Module | None = None
    """The model with its weights in torch, where an engine makes something else of it; None: there is none."""


@dataclass(frozen=True)
class Times:
    """Seconds of each pass, at least one."""

    seconds: tuple[float, ...]

    @property
    def p50(self) -> int:
        """Median, in microseconds."""
        return round(statistics.median(self.seconds) * 1e6)

    @property
    def p95(self) -> int:
        """The least time that 95 of 100 passes did not exceed (nearest rank), in microseconds."""
        return round(sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1] * 1e6)

    def rate(self, amount: float) -> float:
        """How much went through in a second, if `amount` did in a pass."""
        return amount * len(self.seconds) / max(sum(self.seconds), 1e-9)


def alternate(
    several: Sequence[Running],
    batch: Tensor,
    calls: Overdue,
    limit: float,
    *,
    least: int = 1,
    most: int,
    budget: float = 0.0,
) -> list[Times]:
    """Times of each, in turn: `most` passes of each, or at least `least` and as many as `budget` seconds allow.

    Regardless of `least`, none begins after `limit` seconds.
    """

    def timed(forward: Forward) -> Callable[[], float]:
        return lambda: time_once(lambda: forward(batch), batch.device)

    rounds = [timed(running.forward) for running in several]
    return [Times(tuple(seconds)) for seconds in in_turn(rounds, calls, limit, least=least, most=most, budget=budget)]


def in_turn(
    rounds: Sequence[Callable[[], Result]],
    calls: Overdue,
    limit: float,
    *,
    least: int = 1,
    most: int,
    budget: float = 0.0,
) -> list[list[Result]]:
    """What each of `rounds` returns, called in turn; how often is as `alternate` says."""
    results: list[list[Result]] = [[] for _ in rounds]
    begun = time.perf_counter()
    budget = budget or limit
    with phase("Measuring") as pieces:
        for number in range(most):
            gone = time.perf_counter() - begun
            if number and (gone > limit or (number >= least and gone > budget)):
                break
            for one, collected in zip(rounds, results, strict=True):
                calls.begin()
                collected.append(one())
                pieces.done()
    return results


def time_once(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, also on the device."""
    _wait_for(device)
    begun = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - begun


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
