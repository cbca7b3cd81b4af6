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

from builders.trainer import recipe, text_file, train_here, written
from costopt.schema.base import DecimalString, Strict
from costopt.schema.optimization import Optimizer
from costopt.schema.recipe import Recipe
from costopt.schema.unions import tagged_union
from costopt_trainer.errors import NotRetryable
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.optimizers import (
    OPTIMIZERS,
    factory_of,
    load_optimizer_state,
    make_optimizer,
    named_optimizer_state,
)
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def take_steps(module: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / number
        inputs = torch.full((2, 3), float(number))
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
    kept = named_optimizer_state(module, optimizer)
    shapes = {
        f"{name}/{key}": shape
        for name, parameter in module.named_parameters()
        for key, shape in factory_of(settings).state_shapes(parameter).items()
    }
    assert {name: tensor.shape for name, tensor in kept.items()} == shapes
    assert all(tensor.is_floating_point() for tensor in kept.values())


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_an_optimizer_with_the_state_of_another_goes_on_with_the_same_bits(word: str) -> None:
    settings, whole, halves = Optimizer.model_validate({"type": word}), network(), network()
    take_steps(whole, make_optimizer(settings, whole), range(1, 5))
    first = make_optimizer(settings, halves)
    take_steps(halves, first, range(1, 3))
    second = make_optimizer(settings, halves)
    load_optimizer_state(settings, halves, second, named_optimizer_state(halves, first))
    take_steps(halves, second, range(3, 5))
    assert same(whole.state_dict(), halves.state_dict())


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_a_state_that_is_not_of_the_optimizer_is_refused(word: str) -> None:
    settings, module = Optimizer.model_validate({"type": word}), network()
    optimizer = make_optimizer(settings, module)
    take_steps(module, optimizer, range(1, 2))
    kept = named_optimizer_state(module, optimizer)
    name = next(iter(kept))
    without = {key: tensor for key, tensor in kept.items() if key != name}
    has_more = any(key.rpartition("/")[0] == name.rpartition("/")[0] for key in without)
    for wrong in (
        *([without] if has_more else []),
        {**kept, name: torch.zeros(7)},
        {**kept, name: kept[name].to(torch.int64)},
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


class SGD(Strict):
    """torch's own, with momentum."""

    momentum: DecimalString = "0.9"


@tagged_union
class LongerOptimizer(Optimizer):
    """What the language would have with one more optimizer."""

    type: Literal["AdamW", "SGD"] = "AdamW"  # type: ignore[assignment]
    sgd: SGD | None = None


class LongerRecipe(Recipe):
    optimizer: LongerOptimizer = LongerOptimizer()


class SGDFactory:
    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        assert isinstance(settings, LongerOptimizer)
        own = settings.sgd or SGD()
        return torch.optim.SGD(groups, lr=float(settings.learning_rate), momentum=float(own.momentum))

    def state_shapes(self, parameter: Tensor) -> Mapping[str, torch.Size]:
        return {"momentum_buffer": parameter.shape}


FACTORY = SGDFactory()


def begin_with_sgd(tmp_path: Path, folder: str, **changes: Any) -> Training:
    """A training with the throw-away optimizer, gone on from what is in the folder."""
    asked = {"type": "SGD", "learningRate": "0.05", "sgd": {"momentum": "0.5"}}
    plain = {**recipe(text_file(tmp_path), totalSteps=8, **changes).to_plain(), "optimizer": asked}
    (tmp_path / folder).mkdir(exist_ok=True)
    begun = Training(LongerRecipe.model_validate(plain), tmp_path / folder, ALONE, Meter(), Stop(), job="test")
    begun.resume()
    return begun


def test_one_more_optimizer_is_settings_a_factory_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "SGD", f"{__name__}:FACTORY")

    def training(folder: str) -> Training:
        return begin_with_sgd(tmp_path, folder)

    whole = training("whole")
    run_steps(whole)
    assert isinstance(whole.optimizer, torch.optim.SGD)
    assert whole.progress.learning_rate == "0"

    halves = training("halves")
    stop_after(halves, 5)
    with pytest.raises(SystemExit):
        run_steps(halves)
    resumed = training("halves")
    assert resumed.step == 5
    run_steps(resumed)
    assert same(whole.module.state_dict(), resumed.module.state_dict())
    assert same(
        named_optimizer_state(whole.module, whole.optimizer), named_optimizer_state(resumed.module, resumed.optimizer)
    )


def test_a_checkpoint_of_steps_that_all_overflowed_is_whole_without_any_state_of_the_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optimizer such as torch's SGD keeps nothing before its first step, which FP16 may leave out."""
    monkeypatch.setitem(OPTIMIZERS, "SGD", f"{__name__}:FACTORY")
    training = begin_with_sgd(tmp_path, "storage", precision="FP16")
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
    assert named_optimizer_state(training.module, training.optimizer) == {}
    assert begin_with_sgd(tmp_path, "storage", precision="FP16").step == 1


def stop_after(training: Training, step: int) -> None:
    """Ask the training for an early end when it has done that many steps."""

    def ask(*_: object) -> None:
        training.stop.asked = training.stop.asked or training.step + 1 == step

    training.optimizer.register_step_post_hook(ask)
