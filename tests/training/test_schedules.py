"""Every row of the table of schedules gives a rate for every step, from nothing but the step; a new one is a row."""

import typing
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders.trainer import recipe, text_file
from costopt.schema.optimization import Schedule
from costopt.schema.recipe import Recipe
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.schedules import SCHEDULES, learning_rate
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

PEAK = 2e-3


def test_every_word_of_the_language_has_a_row_and_every_row_a_word() -> None:
    assert set(typing.get_args(Schedule.model_fields["type"].annotation)) == SCHEDULES.keys()


@st.composite
def trainings(draw: st.DrawFn) -> Recipe:
    """A recipe of any schedule and length, as the language allows it."""
    word, total = draw(st.sampled_from([*SCHEDULES])), draw(st.integers(1, 60))
    warmup = draw(st.integers(0, total - 1)) if word != "OneCycle" else 0
    schedule: dict[str, Any] = {"type": word, "warmupSteps": warmup}
    if word != "Constant":
        schedule["minLearningRate"] = draw(st.sampled_from(["0", "1e-5", "2e-3"]))
    if word == "WarmupStableDecay":
        decay = draw(st.none() | st.integers(1, total - warmup))
        schedule["warmupStableDecay"] = {"decayShape": draw(st.sampled_from(["Linear", "SquareRoot"]))}
        schedule["warmupStableDecay"] |= {} if decay is None else {"decaySteps": decay}
    if word == "OneCycle":
        schedule["oneCycle"] = {"risePercent": draw(st.integers(1, 99)), "startDivisor": draw(st.integers(1, 50))}
    return recipe(Path("a.txt"), totalSteps=total, optimizer={"learningRate": str(PEAK)}, schedule=schedule)


def rates_of(settings: Recipe) -> list[float]:
    return [learning_rate(settings, step) for step in range(1, settings.total_steps + 1)]


@given(trainings())
def test_a_schedule_gives_every_step_the_same_rate_in_any_order_and_ends_at_the_lowest(settings: Recipe) -> None:
    rates, steps = rates_of(settings), range(settings.total_steps, 0, -1)
    assert rates == [learning_rate(settings, step) for step in steps][::-1]
    lowest = float(settings.schedule.min_learning_rate)
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in rates)
    # Of ReduceOnPlateau the rate stays as long as no evaluation lowers it.
    falls = settings.schedule.type not in {"Constant", "ReduceOnPlateau"}
    assert rates[-1] == pytest.approx(lowest if falls else PEAK, abs=1e-15)
    assert all(rate > 0 for rate in rates[:-1])


@given(trainings())
def test_a_schedule_rises_once_and_falls_once(settings: Recipe) -> None:
    rates = rates_of(settings)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    falling = rates[top:]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(falling))


@pytest.mark.parametrize("word", SCHEDULES)
def test_a_schedule_has_no_jumps(word: str) -> None:
    """In ten times as many steps no two rates are further apart than about a tenth of what they were."""

    def largest_jump(total: int) -> float:
        schedule = {"type": word, "warmupSteps": 0 if word == "OneCycle" else total // 5}
        settings = recipe(Path("a.txt"), totalSteps=total, optimizer={"learningRate": str(PEAK)}, schedule=schedule)
        return max(abs(after - before) for before, after in pairwise(rates_of(settings)))

    assert largest_jump(3000) < 0.11 * largest_jump(300)


def test_cosine_warms_up_linearly_and_falls_as_a_cosine() -> None:
    settings = recipe(
        Path("a.txt"),
        totalSteps=110,
        optimizer={"learningRate": "2e-3"},
        schedule={"warmupSteps": 10, "minLearningRate": "2e-4"},
    )
    rates = {step: learning_rate(settings, step) for step in (1, 5, 10, 60, 110)}
    assert rates == pytest.approx({1: 2e-4, 5: 1e-3, 10: 2e-3, 60: 1.1e-3, 110: 2e-4})
    assert learning_rate(recipe(Path("a.txt"), schedule={}), 8) == 0


def test_linear_falls_on_a_straight_line_and_constant_does_not_fall() -> None:
    common: dict[str, Any] = {"totalSteps": 110, "optimizer": {"learningRate": "2e-3"}}
    linear = {"type": "Linear", "warmupSteps": 10, "minLearningRate": "2e-4"}
    settings = recipe(Path("a.txt"), **common, schedule=linear)
    rates = {step: learning_rate(settings, step) for step in (1, 10, 35, 60, 110)}
    assert rates == pytest.approx({1: 2e-4, 10: 2e-3, 35: 1.55e-3, 60: 1.1e-3, 110: 2e-4})
    settings = recipe(Path("a.txt"), **common, schedule={"type": "Constant", "warmupSteps": 10})
    assert [learning_rate(settings, step) for step in (5, 10, 11, 110)] == [1e-3, 2e-3, 2e-3, 2e-3]


@pytest.mark.parametrize(("shape", "at_a_quarter"), [("Linear", 0.75), ("SquareRoot", 0.5)])
def test_warmup_stable_decay_stays_at_the_peak_until_its_last_steps(shape: str, at_a_quarter: float) -> None:
    own = {"decaySteps": 20, "decayShape": shape}
    schedule = {"type": "WarmupStableDecay", "warmupSteps": 10, "warmupStableDecay": own}

    def rates(total: int) -> list[float]:
        optimizer = {"learningRate": "2e-3"}
        return rates_of(recipe(Path("a.txt"), totalSteps=total, optimizer=optimizer, schedule=schedule))

    short = rates(100)
    assert {*short[9:80]} == {2e-3}
    assert short[84] == pytest.approx(2e-3 * at_a_quarter)
    assert short[80] < 2e-3
    assert rates(500)[:80] == short[:80], "more steps change nothing before the decay"
    assert rates_of(recipe(Path("a.txt"), totalSteps=35, schedule={"type": "WarmupStableDecay"}))[30:32] == [
        1e-3,
        0.75e-3,
    ], "a tenth of the steps, rounded up"


@pytest.mark.parametrize(("percent", "divisor", "total"), [(30, 25, 40), (5, 10, 40), (70, 4, 200)])
def test_one_cycle_is_that_of_torch(percent: int, divisor: int, total: int) -> None:
    schedule = {"type": "OneCycle", "minLearningRate": "1e-6"}
    schedule |= {"oneCycle": {"risePercent": percent, "startDivisor": divisor}}  # type: ignore[dict-item]
    ours = rates_of(recipe(Path("a.txt"), totalSteps=total, optimizer={"learningRate": "2e-3"}, schedule=schedule))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    peer = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=2e-3,
        total_steps=total,
        pct_start=percent / 100,
        div_factor=divisor,
        final_div_factor=2e-3 / divisor / 1e-6,
        cycle_momentum=False,
    )
    theirs = []
    for _ in range(total):
        theirs += peer.get_last_lr()
        optimizer.step()
        if len(theirs) < total:
            peer.step()
    assert ours == pytest.approx(theirs)


class LongerSchedule(Schedule):
    """What the language would have with one more schedule."""

    type: Literal["Cosine", "Staircase"] = "Cosine"  # type: ignore[assignment]


class LongerRecipe(Recipe):
    schedule: LongerSchedule = LongerSchedule()


def staircase(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
    return peak / step


def test_one_more_schedule_is_a_word_a_function_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "Staircase", f"{__name__}:staircase")
    plain = recipe(text_file(tmp_path), totalSteps=3, optimizer={"learningRate": "0.002"}).to_plain()
    settings = LongerRecipe.model_validate({**plain, "schedule": {"type": "Staircase"}})
    begun = Training(settings, tmp_path, ALONE, Meter(), Stop(), job="test")
    begun.resume()
    run_steps(begun)
    assert begun.step == 3
    assert {group["lr"] for group in begun.optimizer.param_groups} == {0.002 / 3}
