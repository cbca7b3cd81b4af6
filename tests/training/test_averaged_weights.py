"""Averages of the weights: as the formula has them, evaluated, saved, and what the trained model is made of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders.trainer import image_file, image_recipe, losses, recipe, text_file, train_here, written
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.data import load_data
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.storage.checkpoint_files import read_tensors
from costopt_trainer.training.averaged_weights import AveragedWeights
from costopt_trainer.training.evaluation import validation_totals
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

DECAY = 0.5
"""Reached after the eighth step: until then it is less."""
EMA = {"ema": {"decay": str(DECAY)}, "totalSteps": 12, "optimizer": {"learningRate": "1e-2"}}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module", params=["text", "images"])
def averaged(request: pytest.FixtureRequest, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    if request.param == "text":
        return recipe(text, **EMA)
    return image_recipe(image_file(tmp_path_factory.mktemp("images")), **EMA)


def begin(settings: Recipe, storage: Path) -> Training:
    storage.mkdir(parents=True, exist_ok=True)
    begun = Training(settings, storage, ALONE, Meter(), Stop(), job="test")
    begun.resume()
    return begun


def now(training: Training) -> dict[str, Tensor]:
    kept = {name: one for name, one in training.module.state_dict().items() if one.is_floating_point()}
    return {name: one.clone() for name, one in kept.items()}


def averages_of(weights: list[dict[str, Tensor]], begin: int = 0) -> dict[str, Tensor]:
    """By hand, of the weights at the beginning and after each step."""
    means = weights[0]
    for step, after in enumerate(weights[1:], start=begin + 1):
        decay = min(DECAY, (1 + step) / (10 + step))
        means = {name: decay * means[name] + (1 - decay) * after[name] for name in means}
    return means


def in_checkpoint(storage: Path, kind: str, step: int = 12) -> dict[str, Tensor]:
    return read_tensors(storage / f"checkpoints/step-{step:08d}", kind)


def test_averages_are_those_of_the_formula_and_become_the_trained_model(averaged: Recipe, tmp_path: Path) -> None:
    training = begin(averaged, tmp_path)
    weights, step = [now(training)], training.take_step

    def take_step(*batch: Any) -> None:
        step(*batch)
        weights.append(now(training))

    training.take_step = take_step  # type: ignore[method-assign]
    run_steps(training)
    training.finish()
    expected = averages_of(weights)
    torch.testing.assert_close(in_checkpoint(tmp_path, "average"), expected)
    assert now(training).keys() == expected.keys()
    assert all(torch.equal(one, weights[-1][name]) for name, one in now(training).items()), "put back after evaluations"
    trained = load_model(tmp_path / "artifacts/model").state_dict()
    assert all(torch.equal(trained[name], one) for name, one in in_checkpoint(tmp_path, "average").items())
    moved = [float((expected[name] - weights[-1][name]).abs().max()) for name in expected]
    assert max(moved) > 1e-4, "the average is not the last step's"


def test_the_average_is_what_is_evaluated(averaged: Recipe, tmp_path: Path) -> None:
    assert train_here(averaged, tmp_path) == 0
    told = float(json.loads((tmp_path / "progress-0.json").read_text())["validationLoss"])
    data = load_data(averaged.data, context_length=16 if averaged.data.text else None, cache_dir=tmp_path / "cache")
    model = load_model(tmp_path / "artifacts/model").eval()
    found = validation_totals(model.each_logits, data, max_samples=7, micro_batch_size=2, device=torch.device("cpu"))
    assert found is not None
    assert told == pytest.approx(found.loss_sum / found.num_targets, abs=1e-6)


def test_averaging_changes_no_step_and_a_resume_ends_in_the_same_bits(averaged: Recipe, tmp_path: Path) -> None:
    without = averaged.model_copy(update={"ema": None})
    assert train_here(without, tmp_path / "without") == 0
    assert train_here(averaged, tmp_path / "whole") == 0
    for after in (3, 8):  # between two evaluations, and right at one
        assert train_here(averaged, tmp_path / "parts", stop_after=after) == EXIT_PREEMPTED
    assert train_here(averaged, tmp_path / "parts") == 0
    assert written(tmp_path / "parts", 12) == written(tmp_path / "whole", 12)
    for step in (8, 12):
        found, expected = written(tmp_path / "whole", step), written(tmp_path / "without", step)
        assert found.keys() - expected.keys() == {"average-00000-00000.safetensors"}
        assert {name: found[name] for name in expected} == expected
    assert losses(tmp_path / "parts") == losses(tmp_path / "without")


def test_weights_change_places_only_when_a_checkpoint_has_copied_them(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = begin(recipe(text, **EMA), tmp_path)
    exchange, copying, asked = AveragedWeights._exchange, [], []
    wait = training.saves.before_change

    def watched(self: AveragedWeights) -> None:
        copying.append(training.saves.is_copying)
        exchange(self)

    monkeypatch.setattr(AveragedWeights, "_exchange", watched)
    monkeypatch.setattr(training.saves, "before_change", lambda: (asked.append(training.step), wait()))
    run_steps(training)
    assert copying == [False] * 6
    assert asked == [4, 8, 12], "at the evaluation of each step that is saved, and not once more at the next step"


def test_averages_that_are_asked_for_later_begin_as_the_weights_are_then(text: Path, tmp_path: Path) -> None:
    settings = recipe(text, **EMA)
    without = settings.model_copy(update={"ema": None})
    assert train_here(without, tmp_path, stop_after=6) == EXIT_PREEMPTED
    training = begin(settings, tmp_path)
    weights, step = [now(training)], training.take_step

    def take_step(*batch: Any) -> None:
        step(*batch)
        weights.append(now(training))

    training.take_step = take_step  # type: ignore[method-assign]
    run_steps(training)
    torch.testing.assert_close(in_checkpoint(tmp_path, "average"), averages_of(weights, begin=6))
    training.finish()

    longer = without.model_copy(update={"total_steps": 13})
    assert train_here(longer, tmp_path) == 0
    trained = load_model(tmp_path / "artifacts/model").state_dict()
    assert all(torch.equal(trained[name], one) for name, one in in_checkpoint(tmp_path, "model", 13).items())


def test_a_checkpoint_that_has_lost_its_averages_is_refused(text: Path, tmp_path: Path) -> None:
    settings = recipe(text, **EMA)
    assert train_here(settings, tmp_path, stop_after=6) == EXIT_PREEMPTED
    for path in (tmp_path / "checkpoints").glob("*/manifest.json"):
        manifest = json.loads(path.read_bytes())
        del manifest["tensors"]["average"], manifest["files"]["average-00000-00000.safetensors"]
        path.write_text(json.dumps(manifest))
    with pytest.raises(NotRetryable, match=r"there is no average of ") as refused:
        train_here(settings, tmp_path)
    assert refused.value.reason == "CheckpointUnreadable"
