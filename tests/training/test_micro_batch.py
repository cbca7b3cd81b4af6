"""Micro-batches that do not fit in memory are halved: each step sees the same samples, and so learns the same."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from builders.small_device import SENTENCE, holds, start_ranks
from builders.trainer import (
    losses,
    recipe,
    run,
    text_file,
    train_here,
    wait_for,
    without_dropout,
    written,
)
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.training.micro_batch import FILE, Fitting, cut, half_of
from costopt_trainer.training.process_group import ALONE


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


def with_size(text: Path, size: int, **changes: Any) -> Recipe:
    return recipe(text, batch={"globalBatchSize": 8, "microBatchSize": size}, **changes)


def too_large(size: int) -> int:
    """Takes two samples at most."""
    if size > 2:
        raise torch.OutOfMemoryError(SENTENCE)
    return size


def test_halved_in_the_first_pass_it_ends_in_the_bits_of_a_training_that_began_with_half(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(with_size(text, 2), tmp_path / "two") == 0
    capsys.readouterr()
    with holds(2) as tried:
        assert train_here(with_size(text, 8), tmp_path / "eight", stop_after=3) == EXIT_PREEMPTED
        assert max(tried[2:]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if "micro-batches" in line]
        assert len(said) == 2
        assert "micro-batches of 4 samples do not fit in memory: halved to 2, with more of them in a step" in said[1]
        tried.clear()
        assert train_here(with_size(text, 8), tmp_path / "eight") == 0
        assert max(tried) == 2, "remembered by the next attempt"
        assert "did not fit in memory before: they have 2" in capsys.readouterr().err
    assert losses(tmp_path / "eight") == losses(tmp_path / "two")
    assert written(tmp_path / "eight", 8) == written(tmp_path / "two", 8)


def test_remembered_before_the_first_checkpoint(text: Path, tmp_path: Path) -> None:
    with holds(2, after_passes=1) as tried:  # the rehearsal fits
        assert train_here(with_size(text, 8), tmp_path, stop_after=1) == EXIT_PREEMPTED
        assert tried[:4] == [8, 8, 4, 2]
    assert json.loads((tmp_path / "cache" / FILE).read_bytes())["microBatchSize"] == 2


def test_halved_in_a_later_step_or_evaluation_the_losses_stay(text: Path, tmp_path: Path) -> None:
    assert train_here(with_size(text, 8, model=without_dropout()), tmp_path / "whole") == 0
    expected = {step: float(loss) for step, loss in losses(tmp_path / "whole").items()}
    for name, after_passes in (("step", 3), ("evaluation", 5)):
        with holds(3, after_passes=after_passes) as tried:
            assert train_here(with_size(text, 8, model=without_dropout()), tmp_path / name) == 0
        assert tried[after_passes : after_passes + 2] == [8 if name == "step" else 7, 4]
        assert max(tried[after_passes + 1 :]) == 4
        assert max(tried[after_passes + 2 :]) == 2
        found = {step: float(loss) for step, loss in losses(tmp_path / name).items()}
        assert found == pytest.approx(expected, abs=1e-6)


def test_settings_may_forbid_it_and_a_single_sample_cannot_be_halved(text: Path, tmp_path: Path) -> None:
    forbidden = with_size(text, 8, memory={"onOutOfMemory": "Fail"})
    with holds(0), pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        train_here(forbidden, tmp_path / "forbidden")
    with holds(0) as tried, pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        train_here(with_size(text, 8), tmp_path / "single")
    assert tried == [8, 4, 2, 1]


def test_batch_norm_takes_its_statistics_over_as_many_samples_as_were_asked_for(text: Path, tmp_path: Path) -> None:
    fitting = Fitting(with_size(text, 8), tmp_path, ALONE)
    with pytest.raises(torch.OutOfMemoryError):
        fitting.fitted(too_large, lambda: None, nn.Sequential(nn.BatchNorm2d(3)))
    assert fitting.size == 8
    assert fitting.fitted(too_large, lambda: None, nn.Linear(1, 1)) == 2


def test_other_errors_are_not_taken_for_it(text: Path, tmp_path: Path) -> None:
    def broken(_size: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    fitting = Fitting(with_size(text, 8), tmp_path, ALONE)
    for act in (fitting.fitted, fitting.agree):
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            act(broken, lambda: None, nn.Linear(1, 1))
    assert fitting.size == 8


def test_nothing_of_a_pass_that_failed_is_alive_when_the_next_is_tried(text: Path, tmp_path: Path) -> None:
    class Large:
        pass

    alive: list[bool] = []
    made: list[weakref.ref[Large]] = []

    def act(size: int) -> int:
        alive.append(any(large() is not None for large in made))
        large = Large()
        made.append(weakref.ref(large))
        return too_large(size)

    for name in ("fitted", "agree"):
        fitting = Fitting(with_size(text, 8), tmp_path / name, ALONE)
        getattr(fitting, name)(act, lambda: None, nn.Linear(1, 1))
    assert alive == [False] * 6


@pytest.mark.parametrize(
    "change",
    [{"microBatchSize": 3}, {"microBatchSize": 8}, {"microBatchSize": 0}, {"microBatchSize": "2"}, {"for": {}}, None],
    ids=str,
)
def test_what_is_no_size_for_these_settings_is_not_believed(change: Any, text: Path, tmp_path: Path) -> None:
    fitting = Fitting(with_size(text, 8), tmp_path, ALONE)
    fitting.fitted(too_large, lambda: None, nn.Linear(1, 1))
    assert Fitting(with_size(text, 8), tmp_path, ALONE).size == 2
    assert Fitting(with_size(text, 8, precision="BF16"), tmp_path, ALONE).size == 8, "it may fit in another precision"
    kept = json.loads((tmp_path / FILE).read_bytes())
    (tmp_path / FILE).write_text("{" if change is None else json.dumps({**kept, **change}))
    assert Fitting(with_size(text, 8), tmp_path, ALONE).size == 8


@pytest.mark.parametrize(("size", "half"), [(8, 4), (6, 3), (9, 3), (3, 1), (7, 1), (2, 1), (1, None)])
def test_the_half_divides_the_whole(size: int, half: int | None) -> None:
    assert half_of(size) == half


def test_cutting_keeps_the_order_of_samples() -> None:
    batches = [(torch.arange(6).reshape(6, 1), torch.arange(6)), (torch.arange(6, 9).reshape(3, 1), torch.arange(6, 9))]
    for size in (1, 2, 4, 9):
        parts = cut(batches, size)
        assert max(len(targets) for _, targets in parts) <= size
        assert torch.cat([inputs for inputs, _ in parts]).flatten().tolist() == list(range(9))
        assert torch.cat([targets for _, targets in parts]).tolist() == list(range(9))


@pytest.mark.slow
def test_if_one_of_two_ranks_runs_out_of_memory_both_halve(text: Path, tmp_path: Path) -> None:
    large, small = (recipe(text, batch={"globalBatchSize": 16, "microBatchSize": size}) for size in (8, 2))
    runs = [run(small, tmp_path / "small"), run(large, tmp_path / "large")]
    codes, errors = wait_for(start_ranks(runs, 2, tmp_path, small=1, samples=2))
    assert codes == [0, 0], errors
    assert written(tmp_path / "large", 8) == written(tmp_path / "small", 8)
    assert [error.count("samples do not fit in memory: halved") for error in errors] == [2, 0]


@pytest.mark.slow
def test_if_memory_runs_out_while_others_wait_the_next_attempt_begins_with_half(text: Path, tmp_path: Path) -> None:
    settings = recipe(text, batch={"globalBatchSize": 16, "microBatchSize": 8})
    ranks = start_ranks([run(settings, tmp_path / "run")], 2, tmp_path, small=1, samples=4, after_passes=5)
    codes, errors = wait_for(ranks)
    assert 0 not in codes
    assert "samples do not fit in memory: halved to 4" in errors[1]
    assert SENTENCE in errors[1], "the attempt ends for this reason"
    assert json.loads((tmp_path / "run/cache" / FILE).read_bytes())["microBatchSize"] == 4
