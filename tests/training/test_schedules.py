"""Every row of the table of schedules gives a rate for every step, from nothing but the step; a new one is a row."""

import typing
from pathlib import Path
from typing import Literal

import pytest

from builders.trainer import recipe, text_file
from costopt.schema.optimization import Schedule
from costopt.schema.recipe import Recipe
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.schedules import SCHEDULES, learning_rate
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training


def test_every_word_of_the_language_has_a_row_and_every_row_a_word() -> None:
    assert set(typing.get_args(Schedule.model_fields["type"].annotation)) == SCHEDULES.keys()


@pytest.mark.parametrize("word", SCHEDULES)
@pytest.mark.parametrize("warmup_steps", [0, 1, 9])
def test_a_schedule_gives_every_step_the_same_rate_in_any_order_and_none_above_the_peak(
    word: str, warmup_steps: int
) -> None:
    settings = recipe(
        Path("a.txt"),
        totalSteps=10,
        optimizer={"learningRate": "2e-3"},
        schedule={"type": word, "warmupSteps": warmup_steps, "minLearningRate": "1e-5"},
    )
    forward = [learning_rate(settings, step) for step in range(1, 11)]
    assert forward == [learning_rate(settings, step) for step in range(10, 0, -1)][::-1]
    assert all(0 < rate <= 2e-3 for rate in forward)


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


class LongerSchedule(Schedule):
    """What the language would have with one more schedule."""

    type: Literal["Cosine", "Constant"] = "Cosine"  # type: ignore[assignment]


class LongerRecipe(Recipe):
    schedule: LongerSchedule = LongerSchedule()


def constant(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
    return peak


def test_one_more_schedule_is_a_word_a_function_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "Constant", f"{__name__}:constant")
    plain = recipe(text_file(tmp_path), totalSteps=3, optimizer={"learningRate": "0.002"}).to_plain()
    settings = LongerRecipe.model_validate({**plain, "schedule": {"type": "Constant"}})
    begun = Training(settings, tmp_path, ALONE, Meter(), Stop(), job="test")
    begun.resume()
    run_steps(begun)
    assert begun.step == 3
    assert {group["lr"] for group in begun.optimizer.param_groups} == {0.002}
