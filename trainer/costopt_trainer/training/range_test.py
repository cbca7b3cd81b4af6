"""The learning-rate range test (Smith, arXiv 1506.01186 and 1803.09820): each step at a higher rate than the last.

rates_of      the rates: evenly spaced in their logarithm
Curve         the losses so far, smoothed; has_diverged: whether a further step would tell nothing
report_of     what the curve suggests; slope_at: how fast the loss falls at a rate
sweep         the steps, by one rank; nothing is saved of them
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from costopt.schema.parallelism import Parallelism
from costopt.schema.range_report import RangePoint, RangeReport, RangeRequest
from costopt.schema.recipe import Recipe
from costopt_trainer.data import TrainingData
from costopt_trainer.models.loss import count_targets
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.reporting.meter import figure
from costopt_trainer.training.learner import Learner, on_device
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.stopping import Stop

WEIGHT_OF_EARLIER = 0.9
"""Of the smoothed loss, against that of a step: about the last ten steps count."""
TIMES_THE_LOWEST = 4.0
"""A smoothed loss so many times its lowest has diverged."""
LEAST_FALL = 0.01
"""Share of its first value by which a loss must have fallen for a rate to be suggested."""
FIRST_STEPS = 10
"""Losses that are smoothed over too few steps are not the lowest."""
NEAR = 2.0
"""Steps whose rates are within this factor tell how fast the loss falls at a rate."""
FEWEST_NEAR = 3
"""Of them at least."""


def rates_of(request: RangeRequest) -> list[float]:
    """The rate of each step: from the lowest to the highest, each the same multiple of the one before."""
    low, high = float(request.lowest), float(request.highest)
    return [low * (high / low) ** (step / (request.steps - 1)) for step in range(request.steps)]


@dataclass(frozen=True)
class Curve:
    """The steps so far."""

    points: tuple[RangePoint, ...] = ()
    mean: float = 0.0
    """Moving average of the losses, which begins at 0."""
    first: float = math.inf
    """The first smoothed loss."""
    lowest: float = math.inf
    """The lowest smoothed loss, after the first steps."""

    def after(self, rate: float, loss: float) -> "Curve":
        """The same with one step more, whose loss is finite."""
        mean = WEIGHT_OF_EARLIER * self.mean + (1 - WEIGHT_OF_EARLIER) * loss
        smoothed = mean / (1 - WEIGHT_OF_EARLIER ** (len(self.points) + 1))  # as if it had not begun at 0
        number = len(self.points) + 1
        point = RangePoint(step=number, learning_rate=figure(rate), loss=figure(loss), smoothed_loss=figure(smoothed))
        return Curve(
            points=(*self.points, point),
            mean=mean,
            first=self.first if self.points else smoothed,
            lowest=min(self.lowest, smoothed) if number >= FIRST_STEPS else self.lowest,
        )

    @property
    def has_fallen(self) -> bool:
        """Whether anything was learnt at any rate."""
        return self.lowest <= (1 - LEAST_FALL) * self.first

    @property
    def has_diverged(self) -> bool:
        """Whether all that was learnt is lost again, or the loss is a multiple of its lowest."""
        if len(self.points) < FIRST_STEPS:
            return False
        now = float(self.points[-1].smoothed_loss)
        return now > TIMES_THE_LOWEST * self.lowest or (self.has_fallen and now >= self.first)


def report_of(curve: Curve, *, diverged: bool) -> RangeReport:
    """What is suggested: the rate at which the loss fell fastest."""
    points = list(curve.points)
    end: Literal["Diverged", "HighestRate"] = "Diverged" if diverged else "HighestRate"
    if not curve.has_fallen:
        why = "the loss has not fallen at any rate, so none can be suggested"
        advice = "begin lower (--from)" if diverged else "go higher (--to), or take more steps (--steps)"
        return RangeReport(points=points, end=end, rule=f"{why}: {advice}")
    rates = [float(point.learning_rate) for point in points]
    fastest = min(rates, key=lambda rate: slope_at(rate, points))
    rule = "the rate at which the loss fell fastest, by the steps within a factor of 2 of it"
    if not diverged and fastest * NEAR > rates[-1]:
        rule += "; that is at the end of the range, so a higher --to may find a higher one"
    suggested = f"{fastest:.2g}".replace("e+", "e")
    return RangeReport(points=points, end=end, suggested_learning_rate=suggested, rule=rule)


def slope_at(rate: float, points: Sequence[RangePoint]) -> float:
    """Change of the loss for each factor of e in the rate, near that rate: the median over all pairs of steps (Theil
    and Sen), so that a single step that jumps does not count. Infinite where there are too few steps."""
    near = [
        (math.log(float(point.learning_rate)), float(point.loss))
        for point in points
        if rate / NEAR <= float(point.learning_rate) <= rate * NEAR
    ]
    slopes = [(up[1] - low[1]) / (up[0] - low[0]) for low, up in itertools.combinations(near, 2) if up[0] > low[0]]
    return statistics.median(slopes) if len(near) >= FEWEST_NEAR else math.inf


def sweep(
    recipe: Recipe, shape: ModelShape, data: TrainingData, gang: ProcessGroup, request: RangeRequest, *, cache_dir: Path
) -> RangeReport:
    """Train fresh weights for the request's steps, on the recipe's global batches in their order, and report.

    One rank does the work of all; schedule and evaluations play no part, and layers are not compiled.
    """
    batch = recipe.batch.model_copy(update={"auto": None})
    alone = recipe.model_copy(update={"parallelism": Parallelism(), "compile": None, "batch": batch})
    learner = _AtRates(alone, shape, data, gang, Stop(), cache_dir=cache_dir)
    learner.rates = rates_of(request)
    curve = Curve()
    for rate in learner.rates:
        batches = learner.batches_at(learner.samples_consumed)
        num_targets = sum(int(count_targets(targets)) for _, targets in batches)
        learner.learn([on_device(batch, gang.device) for batch in batches], num_targets, lambda: None)
        loss = float(learner.losses.pop())
        if not math.isfinite(loss):
            return report_of(curve, diverged=True)
        curve = curve.after(rate, loss)
        if curve.has_diverged:
            return report_of(curve, diverged=True)
    return report_of(curve, diverged=False)


class _AtRates(Learner):
    """Takes each step at a rate that was given."""

    rates: list[float]

    def next_rate(self) -> float:
        return self.rates[self.step]
