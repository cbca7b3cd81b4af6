"""Every row of the table of optimizers does what the training loop asks of it; a new one touches nothing else."""

import json
import shutil
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from builders.trainer import losses, recipe, text_file, train_here, written
from costopt.schema.base import DecimalString, Strict
from costopt.schema.optimization import Optimizer
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt.schema.unions import tagged_union
from costopt_trainer.errors import NotRetryable
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.storage.checkpoint_files import read_tensors
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.optimizers import (
    OPTIMIZERS,
    kept_by,
    load_optimizer_state,
    make_optimizer,
    named_optimizer_state,
    set_rate,
)
from costopt_trainer.training.optimizers.factory import Kept, PlainState
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 2))


def take_steps(module: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        set_rate(optimizer, 0.01 / number)
        inputs = torch.linspace(-number, 1, 128).view(2, 64)
        module(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_word_of_the_language_has_a_row_and_every_row_a_word() -> None:
    assert set(typing.get_args(Optimizer.model_fields["type"].annotation)) == OPTIMIZERS.keys()


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_an_optimizer_keeps_what_its_row_says_it_keeps(word: str) -> None:
    settings, module = Optimizer.model_validate({"type": word}), network()
    optimizer = make_optimizer(settings, module)
    take_steps(module, optimizer, range(1, 3))
    kept = named_optimizer_state(settings, module, optimizer)
    told = {f"{name}/{key}": one for name, kept in kept_by(settings, module).items() for key, one in kept.items()}
    assert {name: Kept(tensor.shape, tensor.dtype) for name, tensor in kept.items()} == told
    assert len({name.rpartition("/")[0] for name in kept}) == 6


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_an_optimizer_with_the_state_of_another_goes_on_with_the_same_bits(word: str) -> None:
    settings, whole, halves = Optimizer.model_validate({"type": word}), network(), network()
    take_steps(whole, make_optimizer(settings, whole), range(1, 5))
    first = make_optimizer(settings, halves)
    take_steps(halves, first, range(1, 3))
    second = make_optimizer(settings, halves)
    load_optimizer_state(settings, halves, second, named_optimizer_state(settings, halves, first))
    take_steps(halves, second, range(3, 5))
    assert same(whole.state_dict(), halves.state_dict())
    assert not same(whole.state_dict(), network().state_dict())


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_a_state_that_is_not_of_the_optimizer_is_refused(word: str) -> None:
    settings, module = Optimizer.model_validate({"type": word}), network()
    optimizer = make_optimizer(settings, module)
    take_steps(module, optimizer, range(1, 2))
    kept = named_optimizer_state(settings, module, optimizer)
    name = next(iter(kept))
    without = {key: tensor for key, tensor in kept.items() if key != name}
    has_more = any(key.rpartition("/")[0] == name.rpartition("/")[0] for key in without)
    for wrong in (
        *([without] if has_more else []),
        {**kept, name: torch.zeros(7)},
        {**kept, name: kept[name].to(torch.int64)},
        {**kept, name: kept[name].to(torch.float64)},
        {**kept, name + "-other": kept[name]},
    ):
        with pytest.raises(ValueError, match=rf"the optimizer's state of 0.weight is not one of {word}"):
            load_optimizer_state(settings, module, optimizer, wrong)


def without_optimizer_state(checkpoint: Path) -> None:
    """Make it a checkpoint whose manifest is in order and knows of no optimizer."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["tensors"]["optimizer"] = {}
    for name in [name for name in manifest["files"] if name.startswith("optimizer-")]:
        del manifest["files"][name]
        (checkpoint / name).unlink()
    path.write_text(json.dumps(manifest))


def test_a_checkpoint_without_the_optimizers_state_is_passed_over_for_the_one_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = recipe(text_file(tmp_path))
    whole, other = tmp_path / "whole", tmp_path / "other"
    assert train_here(settings, whole) == 0
    shutil.copytree(whole / "checkpoints", other / "checkpoints")
    without_optimizer_state(other / "checkpoints/step-00000008")
    capfd.readouterr()
    assert train_here(settings, other) == 0
    said = capfd.readouterr().err
    assert "the checkpoint of step 8 cannot be used (0 of " in said
    assert " tensors of the optimizer are there): trying that of step 4" in said
    assert written(whole, 8) == written(other, 8), "the steps between are taken again, to the bit"

    for step in (4, 8):
        without_optimizer_state(other / f"checkpoints/step-{step:08d}")
    with pytest.raises(NotRetryable, match=r"no checkpoint in .* can be used; the checkpoint of step 8") as refused:
        train_here(settings, other)
    assert refused.value.reason == "CheckpointUnreadable"


class Rprop(Strict):
    """torch's own, which the language does not have."""

    largest_step: DecimalString = "50"


@tagged_union
class LongerOptimizer(Optimizer):
    """What the language would have with one more optimizer."""

    type: Literal["AdamW", "SGD", "Lion", "Adafactor", "Muon", "AdamW8bit", "Rprop"] = "AdamW"  # type: ignore[assignment]
    rprop: Rprop | None = None


class LongerRecipe(Recipe):
    optimizer: LongerOptimizer = LongerOptimizer()


class RpropFactory(PlainState):
    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        assert isinstance(settings, LongerOptimizer)
        own = settings.rprop or Rprop()
        return torch.optim.Rprop(groups, lr=float(settings.learning_rate), step_sizes=(1e-6, float(own.largest_step)))

    def kept(self, settings: Optimizer, parameter: Tensor, *, hidden: bool) -> Mapping[str, Kept]:
        return {"prev": Kept.like(parameter), "step_size": Kept.like(parameter), "step": Kept.count()}


FACTORY = RpropFactory()


def begin(recipe: Recipe, folder: Path) -> Training:
    """A training, gone on from what is in the folder."""
    folder.mkdir(exist_ok=True)
    begun = Training(recipe, folder, ALONE, Meter(), Stop(), job="test")
    begun.resume()
    return begun


def test_one_more_optimizer_is_settings_a_factory_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "Rprop", f"{__name__}:FACTORY")
    asked = {"type": "Rprop", "learningRate": "0.001", "rprop": {"largestStep": "0.1"}}
    plain = {**recipe(text_file(tmp_path), totalSteps=8).to_plain(), "optimizer": asked}

    def training(folder: str) -> Training:
        return begin(LongerRecipe.model_validate(plain), tmp_path / folder)

    whole = training("whole")
    run_steps(whole)
    assert isinstance(whole.optimizer, torch.optim.Rprop)
    assert whole.progress.learning_rate == "0"

    halves = training("halves")
    stop_after(halves, 5)
    with pytest.raises(SystemExit):
        run_steps(halves)
    resumed = training("halves")
    assert resumed.step == 5
    run_steps(resumed)
    assert same(whole.module.state_dict(), resumed.module.state_dict())
    settings = whole.recipe.optimizer
    assert same(
        named_optimizer_state(settings, whole.module, whole.optimizer),
        named_optimizer_state(settings, resumed.module, resumed.optimizer),
    )


def test_a_checkpoint_of_steps_that_all_overflowed_is_whole_without_any_state_of_the_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's SGD keeps nothing before its first step, which FP16 may leave out."""
    settings = recipe(text_file(tmp_path), precision="FP16", optimizer={"type": "SGD"})
    training = begin(settings, tmp_path / "storage")
    first = next(training.module.parameters())
    overflowing = first.register_hook(lambda gradient: gradient * float("inf"))
    step = training.take_step

    def take_one(*batch: Any) -> None:
        step(*batch)
        training.stop.asked = True

    monkeypatch.setattr(training, "take_step", take_one)
    with pytest.raises(SystemExit):
        run_steps(training)
    overflowing.remove()
    assert named_optimizer_state(settings.optimizer, training.module, training.optimizer) == {}
    assert begin(settings, tmp_path / "storage").step == 1


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_a_training_that_was_stopped_ends_in_the_same_bits_as_one_that_was_not(
    word: str, text: Path, tmp_path: Path
) -> None:
    settings = recipe(text, optimizer={"type": word}, totalSteps=6)
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=3) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "parts", 6) == written(tmp_path / "whole", 6)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_an_optimizer_steps_over_an_overflow_of_fp16_and_goes_on(word: str, text: Path, tmp_path: Path) -> None:
    saving = {"everySteps": 1, "keepLast": 3}
    settings = recipe(text, optimizer={"type": word}, precision="FP16", totalSteps=3, checkpointing=saving)
    assert train_here(settings, tmp_path, overflow_at=2) == 0
    folders = [tmp_path / f"checkpoints/step-{step:08d}" for step in (1, 2, 3)]
    before, after, last = (read_tensors(folder, "optimizer") for folder in folders)
    assert same(before, after)
    assert not same(after, last)


def test_the_state_of_another_optimizer_is_refused_in_one_sentence(text: Path, tmp_path: Path) -> None:
    assert train_here(recipe(text, totalSteps=3), tmp_path) == 0
    with pytest.raises(
        NotRetryable,
        match=r"^the checkpoint of step 3 has the state of the optimizer AdamW, which Lion cannot go on from",
    ) as refused:
        train_here(recipe(text, totalSteps=4, optimizer={"type": "Lion"}), tmp_path)
    assert refused.value.reason == "InvalidSettings"


def stop_after(training: Training, step: int) -> None:
    """Ask the training for an early end when it has done that many steps."""

    def ask(*_: object) -> None:
        training.stop.asked = training.stop.asked or training.step + 1 == step

    training.optimizer.register_step_post_hook(ask)
