"""A training whose length is said in epochs: known once the data is, the same after a resume."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.trainer import losses, recipe, text_file, train_here, written
from costopt.schema.epochs import steps_of
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable


def in_epochs(text: Path, epochs: int | str, **more: Any) -> Recipe:
    """Of a text of about 50 samples, 8 of which are a step."""
    plain = recipe(text, totalSteps=1000, **more).to_plain()
    del plain["totalSteps"]
    return Recipe.model_validate({**plain, "epochs": epochs})


def last_line(storage: Path) -> Any:
    return json.loads((storage / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"), words=200)


def test_epochs_are_as_many_steps_as_in_figures_and_a_resume_keeps_them(
    text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_here(in_epochs(text, "1.5"), tmp_path / "whole") == 0
    [told] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epochs 1.5 of ")]
    samples = int(told.split()[3])
    steps = samples * 3 // 2 // 8
    assert told == f"epochs 1.5 of {samples} training samples are {steps} steps of globalBatchSize 8"
    assert train_here(recipe(text, totalSteps=steps), tmp_path / "figures") == 0
    assert train_here(in_epochs(text, "1.5"), tmp_path / "parts", stop_after=3) == EXIT_PREEMPTED
    assert last_line(tmp_path / "parts")["totalSteps"] == steps
    assert train_here(in_epochs(text, "1.5"), tmp_path / "parts") == 0
    for other in ("figures", "parts"):
        assert written(tmp_path / "whole", steps) == written(tmp_path / other, steps)
        assert losses(tmp_path / "whole") == losses(tmp_path / other)


def test_of_selected_samples_an_epoch_is_those_that_are_kept(text: Path, tmp_path: Path) -> None:
    plain = in_epochs(text, 2).to_plain()
    plain["data"]["selection"] = {"type": "Random", "keepPercent": 50}
    assert train_here(Recipe.model_validate(plain), tmp_path / "job") == 0
    assert train_here(in_epochs(text, 1), tmp_path / "all") == 0
    told = last_line(tmp_path / "job")
    assert told["step"] == told["totalSteps"] == last_line(tmp_path / "all")["totalSteps"]


def test_a_larger_batch_after_a_resume_takes_what_is_left_of_the_epochs(text: Path, tmp_path: Path) -> None:
    assert train_here(in_epochs(text, 2), tmp_path / "job", stop_after=4) == EXIT_PREEMPTED
    larger = in_epochs(text, 2, batch={"globalBatchSize": 16, "microBatchSize": 2})
    assert train_here(larger, tmp_path / "job") == 0
    told = last_line(tmp_path / "job")
    assert train_here(in_epochs(text, 2), tmp_path / "whole") == 0
    assert abs(told["samplesConsumed"] - last_line(tmp_path / "whole")["samplesConsumed"]) < 16
    assert told["step"] == told["totalSteps"] == 4 + (told["samplesConsumed"] - 32) // 16


@pytest.mark.parametrize(
    ("epochs", "schedule", "sentence"),
    [
        (
            "0.01",
            {"warmupSteps": 0},
            r"epochs must make at least one step: ask for more, .* \(epochs 0\.01 of .* 0 steps",
        ),
        ("0.5", {"warmupSteps": 40}, r"schedule\.warmupSteps, 40, must be less than the steps: ask for more epochs"),
        (
            1,
            {"type": "WarmupStableDecay", "warmupSteps": 5, "warmupStableDecay": {"decaySteps": 90}},
            r"warmupStableDecay\.decaySteps must together be at most the steps",
        ),
    ],
)
def test_too_few_steps_are_refused(
    epochs: int | str, schedule: dict[str, Any], sentence: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotRetryable, match=sentence) as caught:
        train_here(in_epochs(text, epochs, schedule=schedule), tmp_path)
    assert caught.value.reason == "InvalidSettings"
    assert "\n" not in str(caught.value)


@given(st.decimals("0.001", 100, places=3), st.integers(1, 10**6), st.integers(1, 1000), st.integers(0, 100))
def test_no_more_samples_are_taken_than_asked_for_and_less_than_a_step_is_left(
    epochs: Decimal, samples: int, batch: int, done: int
) -> None:
    steps = steps_of(str(epochs), samples, batch)
    assert steps * batch <= epochs * samples < (steps + 1) * batch
    done = min(done, steps)
    assert steps_of(str(epochs), samples, batch, step=done, consumed=done * batch) == steps
