"""A global batch chosen by the gradient noise scale: measured without bias, chosen once, the same after any kill."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders.moments import train_and_keep_moments
from builders.trainer import losses, recipe, run, text_file, train_here, train_in_gang, without_dropout, written
from costopt.schema.auto_batch import AutoBatchReport
from costopt.schema.recipe import Batch, Recipe
from costopt.schema.replica import EXIT_PREEMPTED, Progress
from costopt_trainer.errors import NotRetryable
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.noise_scale import NoiseScale, is_due, measured, report_of, size_of
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training


def batch(least: int = 8, largest: int = 64, **auto: int) -> Batch:
    plain = {"largest": largest, "afterSteps": 0, "measureSteps": 1, **auto}
    return Batch.model_validate({"globalBatchSize": least, "microBatchSize": 1, "auto": plain})


def squares(signal: float, noise: float, *sizes: int) -> list[tuple[int, float]]:
    """What is to be expected of the squared norms of gradients over so many samples."""
    return [(size, signal + noise / size) for size in sizes]


# ------------------------------------------------------------------------------------------------- the pure decisions


@given(signal=st.floats(1e-6, 1e3), noise=st.floats(1e-6, 1e6), few=st.integers(1, 50), times=st.integers(2, 50))
def test_expected_norms_at_two_sizes_give_noise_and_signal(signal: float, noise: float, few: int, times: int) -> None:
    state = measured(batch(), NoiseScale(), 1, *squares(signal, noise, few, few * times))
    largest = signal + noise / few
    assert state.noise == pytest.approx(noise, abs=1e-9 * largest * few * times)
    assert state.signal == pytest.approx(signal, abs=1e-9 * largest)


@given(scale=st.floats(0.01, 10_000), least=st.integers(1, 40), multiple=st.integers(1, 40), rest=st.integers(0, 39))
def test_the_closest_multiple_within_the_bounds_is_chosen(scale: float, least: int, multiple: int, rest: int) -> None:
    largest = least * multiple + rest % least
    settings = batch(least, largest)
    size = size_of(settings, measured(settings, NoiseScale(), 1, *squares(1.0, scale, 1, 100)))
    assert size % least == 0
    assert least <= size <= largest
    others = range(least, largest + 1, least)
    assert abs(size - scale) <= min(abs(other - scale) for other in others) * (1 + 1e-6) + 1e-6


def test_a_ratio_of_means_is_taken_and_not_a_mean_of_ratios() -> None:
    settings, state = batch(measureSteps=2), NoiseScale()
    state = measured(settings, state, 1, *squares(1.0, 10.0, 2, 8))
    assert size_of(settings, state) == 8, "not before all are measured"
    state = measured(settings, state, 2, *squares(3.0, 150.0, 2, 8))
    assert state.samples == pytest.approx(160 / 4)
    assert (state.steps, state.last_step, size_of(settings, state)) == (2, 2, 40)


def test_a_signal_that_is_lost_in_the_noise_takes_the_largest_batch_and_says_so() -> None:
    settings = batch(least=8, largest=30)
    state = measured(settings, NoiseScale(), 5, (2, 10.0), (8, 1.0))
    assert state.signal < 0
    assert report_of(settings, state) == AutoBatchReport(global_batch_size=24, measured_until_step=5)


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_step_whose_gradient_overflowed_measures_nothing(norm: float) -> None:
    settings = batch(measureSteps=2)
    before = measured(settings, NoiseScale(), 1, *squares(1.0, 16.0, 2, 8))
    for small, large in (((2, norm), (8, 3.0)), ((2, 9.0), (8, norm)), ((2, norm), (8, norm))):
        after = measured(settings, before, 2, small, large)
        assert (after.noise, after.signal, after.chosen) == (before.noise, before.signal, 16)


def test_measuring_is_due_from_its_first_step_until_a_size_is_chosen() -> None:
    settings, state = batch(afterSteps=3, measureSteps=2), NoiseScale()
    due = []
    for step in range(1, 9):
        if is_due(settings, state, step):
            due.append(step)
            state = measured(settings, state, step, *squares(1.0, 16.0, 2, 8))
    assert due == [4, 5]
    assert not is_due(Batch(global_batch_size=8, micro_batch_size=1), NoiseScale(), 5)


def test_a_size_chosen_under_other_settings_does_not_count() -> None:
    state = measured(batch(), NoiseScale(), 1, *squares(1.0, 32.0, 2, 8))
    assert size_of(batch(), state) == 32
    assert size_of(batch(least=4), state) == 4
    assert size_of(batch(largest=24), state) == 8
    assert size_of(batch(), state.model_copy(update={"chosen": 33})) == 8
    assert is_due(batch(least=4), state, 2)
    assert size_of(Batch(global_batch_size=8, micro_batch_size=1), state) == 8


# ---------------------------------------------------------------------------------------------------- whole trainings


AUTO = {"largest": 62, "afterSteps": 6, "measureSteps": 4}


def that_measures(path: Path, **changes: Any) -> Recipe:
    """Its rate is so high that it soon learns little from most samples: then noise is what gradients mostly are."""
    return recipe(
        path,
        **{
            "totalSteps": 14,
            "optimizer": {"learningRate": "5e-2"},
            "schedule": {"type": "ReduceOnPlateau"},
            "batch": {"globalBatchSize": 4, "microBatchSize": 1, "auto": AUTO},
            "checkpointing": {"everySteps": 4, "mode": "Sync"},
            **changes,
        },
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


def progress_in(storage: Path) -> Progress:
    return Progress.model_validate_json((storage / "progress-0.json").read_text())


def samples_by_step(storage: Path) -> dict[int, int]:
    lines = map(json.loads, (storage / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["samplesConsumed"] for line in lines}


def test_the_squares_that_are_measured_are_those_of_the_gradients(text: Path, tmp_path: Path) -> None:
    settings = that_measures(text, model=without_dropout())
    training = Training(settings, tmp_path, ALONE, Meter(), Stop(), job="test")
    training.resume()
    training.step = 6  # the next one is to be measured
    module = training.module
    batches = training.batches_at(0)

    def square_of(samples: int) -> float:
        loss_sum, targets = torch.zeros(()), 0
        for inputs, wanted in batches[:samples]:
            logits = module(inputs)
            loss_sum = loss_sum + torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), wanted.flatten(), reduction="sum"
            )
            targets += wanted.numel()
        gradients = torch.autograd.grad(loss_sum / targets, list(module.parameters()))
        return float(sum(gradient.double().square().sum() for gradient in gradients))

    few, all_of_them = square_of(1), square_of(4)
    assert training.measure_first(batches, training.keep_state()) == (1, pytest.approx(few, rel=1e-4))
    assert all(parameter.grad is None for parameter in module.parameters()), "it leaves no trace"
    targets = sum(wanted.numel() for _, wanted in batches)
    assert training.learn(batches, targets, lambda: None)
    state = training.decisions.batch
    assert state.noise == pytest.approx((few - all_of_them) / (1 - 1 / 4), rel=1e-3)
    assert state.signal == pytest.approx((4 * all_of_them - few) / (4 - 1), rel=1e-3)


def test_until_a_size_is_chosen_a_training_that_measures_has_the_bits_of_one_that_does_not(
    text: Path, tmp_path: Path
) -> None:
    never = {"globalBatchSize": 4, "microBatchSize": 1}
    assert train_here(that_measures(text), tmp_path / "auto") == 0
    assert train_here(that_measures(text, batch=never), tmp_path / "fixed") == 0
    both = [losses(tmp_path / name) for name in ("auto", "fixed")]
    assert [both[0][step] for step in range(1, 11)] == [both[1][step] for step in range(1, 11)]
    assert both[0][14] != both[1][14]


def test_after_the_measuring_steps_have_the_size_that_is_told(
    text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_here(that_measures(text), tmp_path) == 0
    told = progress_in(tmp_path).auto_batch
    assert told is not None
    assert told.measured_until_step == 10
    size = told.global_batch_size
    assert size > 4
    assert size % 4 == 0
    samples = samples_by_step(tmp_path)
    assert samples == {step: 4 * min(step, 10) + size * max(0, step - 10) for step in range(1, 15)}
    said = capfd.readouterr().err
    assert f"from now on a step has {size} samples, a multiple of 4 between 4 and 62" in said
    if told.noise_scale is not None:
        assert f"the gradient noise scale is {Decimal(told.noise_scale):.1f} samples" in said


def test_a_training_killed_at_any_moment_chooses_the_same_size_at_the_same_step(text: Path, tmp_path: Path) -> None:
    settings = that_measures(text)
    moments = train_and_keep_moments(settings, tmp_path / "whole", tmp_path / "moments")
    whole = tmp_path / "whole"
    for moment in moments[::2]:
        assert train_here(settings, moment) == 0
        assert progress_in(moment).auto_batch == progress_in(whole).auto_batch, moment.name
        assert samples_by_step(moment).items() <= samples_by_step(whole).items()
        assert written(moment, 14) == written(whole, 14), moment.name


@pytest.mark.slow
def test_ranks_choose_the_same_size_also_after_a_stop_while_measuring(text: Path, tmp_path: Path) -> None:
    settings = that_measures(text, model=without_dropout(), parallelism={"shard": 2})
    runs = [run(settings, tmp_path / "whole"), run(settings, tmp_path / "parts", stop_after=8)]
    codes, errors = train_in_gang([*runs, run(settings, tmp_path / "parts")], 2, tmp_path)
    assert codes == [0, 0], errors
    told = progress_in(tmp_path / "whole").auto_batch
    assert told is not None
    assert progress_in(tmp_path / "parts").auto_batch == told
    assert written(tmp_path / "parts", 14) == written(tmp_path / "whole", 14)


def test_a_batch_of_a_single_micro_batch_is_refused(text: Path, tmp_path: Path) -> None:
    settings = that_measures(text, batch={"globalBatchSize": 4, "microBatchSize": 4, "auto": AUTO})
    with pytest.raises(NotRetryable, match="at least twice microBatchSize"):
        train_here(settings, tmp_path)


def test_a_stop_within_a_measured_step_leaves_no_trace_of_it(text: Path, tmp_path: Path) -> None:
    settings = that_measures(text)
    assert train_here(settings, tmp_path / "whole") == 0
    for step in (7, 9, 10):
        assert train_here(settings, tmp_path / str(step), stop_after=step) == EXIT_PREEMPTED
        assert train_here(settings, tmp_path / str(step)) == 0
        assert written(tmp_path / str(step), 14) == written(tmp_path / "whole", 14)
