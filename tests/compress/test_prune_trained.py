"""Pruning in rounds with training in between: zeros stay, a kill makes no difference, and what was lost comes back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.compress import apply, pruned
from builders.data import image_settings, write_digits
from builders.steps import Killed, StepStage
from costopt.schema.compression import Step, Variant
from costopt.schema.models import ConvNet, ModelSettings
from costopt.schema.optimization import Optimizer
from costopt.schema.recipe import Batch, Evaluation, Recipe
from costopt_trainer.compress import fitting, measure, run
from costopt_trainer.compress.table import step_trains, trains
from costopt_trainer.data import load_data, sample_indices
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

ROUNDS: dict[str, Any] = {"rounds": 2, "fine_tune_steps": 4, "learning_rate": "1e-3"}


@pytest.fixture(scope="module")
def trained_language(tmp_path_factory: pytest.TempPathFactory) -> StepStage:
    return StepStage.made("DecoderLM", tmp_path_factory.mktemp("language"))


@pytest.fixture
def language(trained_language: StepStage, tmp_path: Path) -> StepStage:
    return trained_language.copied(tmp_path / "language")


def zeros(model: LayeredModel) -> list[int]:
    blocks: Any = model.layers.values()
    return [int((layer.weight == 0).sum()) for block in blocks for layer in (block.attention.q, block.mlp.expand)]


@pytest.mark.parametrize("scope", ["PerLayer", "Global"])
def test_zeros_stay_zero_through_all_rounds_while_the_rest_is_trained(language: StepStage, scope: str) -> None:
    at_once, _ = language.applied(pruned("Unstructured", 60, scope=scope))
    model, [line] = language.applied(pruned("Unstructured", 60, scope=scope, **ROUNDS))
    counts = [sum(int((p == 0).sum()) for p in one.parameters()) for one in (at_once, model)]
    assert counts[0] == counts[1]
    if scope == "PerLayer":
        assert zeros(model) == [64 * 64 * 60 // 100, 64 * 256 * 60 // 100] * 2
    assert not torch.equal(model.head.weight, at_once.head.weight), "it has learned"
    assert "; round 2 trained 4 steps on 1 rank" in line


def test_zeros_stay_zero_in_a_step_that_comes_after(language: StepStage) -> None:
    tuning = Step.model_validate({"type": "FineTune", "fineTune": {"steps": 3}})
    model, _ = language.applied(pruned("Unstructured", 60), tuning)
    assert zeros(model) == [64 * 64 * 60 // 100, 64 * 256 * 60 // 100] * 2
    dense, _ = language.applied(tuning)
    assert zeros(dense) == [0] * 4


def test_rounds_end_with_the_sizes_of_one_and_other_weights(language: StepStage) -> None:
    parts = ["Channels", "Heads", "Layers"]
    at_once, _ = language.applied(pruned("Structured", 50, of=parts))
    model, [line] = language.applied(pruned("Structured", 50, of=parts, criterion="Taylor", **ROUNDS))
    assert {name: sizes for name, sizes in model.widths().items() if name != "layers"} == {
        "attention": (32,),
        "mlp": (128,),
    }
    assert at_once.widths().keys() == model.widths().keys()
    assert "layers" in model.widths()
    assert "1 layer; round 2 trained" in line
    assert not model.training


@pytest.mark.parametrize("structure", ["Structured", "Unstructured"])
@pytest.mark.parametrize("killed_after", [3, 7], ids=["in the first round", "in the second"])
def test_a_kill_in_a_round_changes_no_bit(
    language: StepStage, tmp_path: Path, structure: str, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = pruned(structure, 50, criterion="Taylor", **ROUNDS)
    whole, _ = language.copied(tmp_path / "whole").applied(step)

    taken = 0
    take_step = fitting.StepTraining.take_step

    def count_and_kill(self: fitting.StepTraining, *arguments: Any) -> None:
        nonlocal taken
        take_step(self, *arguments)
        taken += 1
        if taken == killed_after:
            raise Killed

    monkeypatch.setattr(fitting.StepTraining, "take_step", count_and_kill)
    with pytest.raises(Killed):
        language.applied(step)
    again, [line] = language.applied(step)
    assert taken == 9, "steps that a checkpoint holds are not taken again"
    assert whole.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert ("steps 3 to 4 on 1 rank" in line) == (killed_after == 7)


def test_only_settings_with_steps_train() -> None:
    assert trains([pruned("Structured", 50, **ROUNDS)])
    assert not step_trains(pruned("Structured", 50))


def test_an_optimizer_that_would_fill_the_zeros_is_refused(language: StepStage) -> None:
    muon = language.with_recipe(optimizer=Optimizer(type="Muon"))
    with pytest.raises(NotRetryable, match=r"another recipe\.optimizer\.type than Muon, whose steps fill the zeros"):
        muon.applied(pruned("Unstructured", 50, **ROUNDS))


def digit_stage(storage: Path) -> Recipe:
    """A classifier of digits, trained."""
    storage.mkdir(parents=True, exist_ok=True)
    settings = ModelSettings(type="ConvNet", conv_net=ConvNet(num_stages=2, base_channels=32))
    recipe = Recipe(
        model=settings,
        data=image_settings(write_digits(storage / "digits.npz"), validation_percent=20),
        batch=Batch(global_batch_size=32, micro_batch_size=32),
        total_steps=400,
        optimizer=Optimizer(learning_rate="3e-3"),
        evaluation=Evaluation(max_samples=400),
    )
    data = load_data(recipe.data, context_length=None, cache_dir=storage / "cache")
    torch.manual_seed(0)
    shape = ModelShape.for_data(settings, data)
    model = build_model(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(recipe.total_steps or 0):
        indices = sample_indices(seed=0, position=step * 32, count=32, num_samples=data.num_train_samples)
        inputs, targets = data.train_batch(indices)
        (model.loss_sum(inputs, targets) / len(targets)).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(storage / "artifacts" / "model", model, shape)
    return recipe


@pytest.mark.slow
def test_a_classifier_of_digits_that_pruning_ruins_is_healed_and_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    recipe = digit_stage(tmp_path)

    cut = load_model(tmp_path / "artifacts/model")
    data = load_data(recipe.data, context_length=None, cache_dir=tmp_path / "cache")
    inputs, targets = data.validation_batch(np.arange(data.num_validation_samples))
    apply(cut, [pruned("Structured", 50)], inputs[:1])
    with torch.no_grad():
        lost = float(cut.loss_sum(inputs, targets)) / len(targets)

    step = pruned("Structured", 50, fine_tune_steps=200, learning_rate="3e-3")
    report = run.make_variant(Variant(name="healed", steps=[step]), recipe, tmp_path)
    assert report is not None
    before, after = float(report.baseline.validation_loss), float(report.measured.validation_loss)
    print(f"loss {before:.3f}, cut {lost:.3f}, healed {after:.3f}")
    assert before < 0.25
    assert lost > 1, "it is ruined"
    assert after < 0.3
    assert report.measured.parameters < report.baseline.parameters / 3
    assert not {"QualityDropped", "NoBetterThanGuessing"} & {fault.reason for fault in report.faults}
