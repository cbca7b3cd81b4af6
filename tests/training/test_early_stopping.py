"""A training that ends when evaluations no longer improve: at the same step after any kill, with the best model."""

import json
import shutil
import typing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from builders.moments import train_and_keep_moments
from builders.trainer import (
    image_file,
    image_recipe,
    losses,
    recipe,
    run,
    text_file,
    train_here,
    train_in_gang,
    without_dropout,
    written,
)
from costopt.cli.views import METRIC_WORDS
from costopt.schema.early_stopping import EarlyStopping, EarlyStoppingReport, StoppingMetric
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, Progress
from costopt_trainer.models.artifact import load_model
from costopt_trainer.training.early_stopping import Course, after_evaluation, has_ended, report_of
from costopt_trainer.training.measures import MEASURES

MODEL = "artifacts/model/model.safetensors"


# ------------------------------------------------------------------------------------------------- the pure decisions


@given(
    losses_in_tenths=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    patience=st.integers(1, 5),
    margin=st.integers(0, 10),
)
def test_training_is_over_after_the_first_row_of_evaluations_without_improvement(
    losses_in_tenths: list[int], patience: int, margin: int
) -> None:
    settings = EarlyStopping(patience_evaluations=patience, least_improvement=str(Decimal(margin) / 10))
    course = Course()
    ended_at = None
    for number, tenths in enumerate(losses_in_tenths):
        course = after_evaluation(settings, course, number, {"validationLoss": str(Decimal(tenths) / 10)})
        if has_ended(settings, course):
            ended_at = number
            break
    mark, since, expected = losses_in_tenths[0], 0, None
    for number, tenths in enumerate(losses_in_tenths[1:], start=1):
        better = mark > tenths and mark - tenths >= margin
        mark, since = (tenths, number) if better else (mark, since)
        if number - since == patience:
            expected = number
            break
    assert ended_at == expected


def test_every_word_of_the_language_has_a_measure_and_words_for_people() -> None:
    assert set(typing.get_args(StoppingMetric)) == MEASURES.keys() == METRIC_WORDS.keys()


def figures(permille: int) -> dict[str, Any]:
    results = {"validationAccuracyPermille": str(permille), "validationMacroF1Permille": str(1000 - permille)}
    return {"validationLoss": "1.5", "results": results}


def test_of_accuracy_and_f1_the_highest_is_the_best() -> None:
    for metric, best_step in (("Accuracy", 2), ("MacroF1", 3)):
        settings = EarlyStopping.model_validate({"metric": metric, "patienceEvaluations": 9})
        course = Course()
        for step, permille in enumerate((500, 900, 100), start=1):
            course = after_evaluation(settings, course, step, figures(permille))
        assert course.patience.best_step == best_step
        assert course.patience.best == "900"
        worse = [MEASURES[settings.metric].worse(figures(permille)) for permille in (500, 900, 100)]
        assert worse.index(min(worse)) == best_step - 1


def course_of(settings: EarlyStopping, *values: str) -> Course:
    course = Course()
    for step, value in enumerate(values, start=1):
        course = after_evaluation(settings, course, step, {"validationLoss": value})
    return course


def test_an_attempt_with_more_patience_goes_on_and_one_without_early_stopping_too() -> None:
    settings = EarlyStopping(patience_evaluations=2)
    course = course_of(settings, "2", "3", "3")
    assert has_ended(settings, course)
    patient = EarlyStopping(patience_evaluations=3)
    assert not has_ended(patient, course)
    assert has_ended(patient, after_evaluation(patient, course, 4, {"validationLoss": "3"}))
    assert not has_ended(None, course)


def test_what_was_seen_of_another_metric_does_not_count() -> None:
    course = course_of(EarlyStopping(patience_evaluations=2), "2", "3", "3")
    other = EarlyStopping(metric="Accuracy", patience_evaluations=2)
    assert not has_ended(other, course)
    assert after_evaluation(other, course, 4, figures(10)).patience.waited == 0


def test_a_training_that_ends_at_its_last_step_anyway_has_not_stopped_early() -> None:
    settings = EarlyStopping(patience_evaluations=2)
    course = course_of(settings, "2", "3", "3")
    told = EarlyStoppingReport(metric="ValidationLoss", best="2", best_step=1, evaluations_waited=2)
    assert report_of(settings, course, 3) == told
    assert report_of(settings, course, 30) == told.model_copy(update={"stopped_at_step": 3})
    assert report_of(settings, Course(), 30) is None
    assert report_of(None, course, 30) is None


# ---------------------------------------------------------------------------------------------------- whole trainings


def that_stops(path: Path, **changes: Any) -> Recipe:
    """Its rate is so high that its validation loss soon goes up and down."""
    return recipe(
        path,
        **{
            "totalSteps": 40,
            "optimizer": {"learningRate": "1e-1"},
            "schedule": {"type": "ReduceOnPlateau", "reduceOnPlateau": {"patienceEvaluations": 99}},
            "evaluation": {"everySteps": 2, "maxSamples": 7},
            "checkpointing": {"everySteps": 3},
            "earlyStopping": {"patienceEvaluations": 2},
            **changes,
        },
    )


def told_in(storage: Path) -> EarlyStoppingReport:
    told = Progress.model_validate_json((storage / "progress-0.json").read_text()).early_stopping
    assert told is not None
    return told


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def stopped(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage, whose training has stopped early."""
    storage = tmp_path_factory.mktemp("stopped")
    assert train_here(that_stops(text), storage) == 0
    told = told_in(storage)
    assert told.stopped_at_step is not None
    assert told.best_step < told.stopped_at_step < 40
    return storage


def steps_in(storage: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (storage / "checkpoints").iterdir())


def evaluations_in(storage: Path) -> dict[int, str]:
    """Validation loss by step, of those that were evaluated."""
    lines = map(json.loads, (storage / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["validationLoss"] for line in lines if line["step"] % 2 == 0}


def same_result(storage: Path, expected: Path) -> bool:
    """Whether it took the same decisions at the same steps, and has the same weights, bit for bit."""
    assert told_in(storage) == told_in(expected)
    stop = told_in(expected).stopped_at_step or 0
    return (
        written(storage, stop) == written(expected, stop)
        and (storage / MODEL).read_bytes() == (expected / MODEL).read_bytes()
    )


def test_a_training_stops_once_its_patience_is_over_and_says_so(stopped: Path) -> None:
    told, course = told_in(stopped), evaluations_in(stopped)
    best_step = min(course, key=lambda step: float(course[step]))
    assert told == EarlyStoppingReport(
        metric="ValidationLoss",
        best=course[best_step],
        best_step=best_step,
        evaluations_waited=2,
        stopped_at_step=best_step + 4,
        model_step=best_step,
    )
    assert max(losses(stopped)) == best_step + 4, "no step was taken after it"


def test_the_trained_model_is_the_best_one_and_progress_speaks_of_it(stopped: Path) -> None:
    told = told_in(stopped)
    best, last = (load_file_of(stopped, step) for step in (told.best_step, told.stopped_at_step or 0))
    saved = load_model(stopped / "artifacts/model").state_dict()
    assert all(torch.equal(saved[name], best[name]) for name in best)
    assert not all(torch.equal(saved[name], last[name]) for name in last)
    progress = Progress.model_validate_json((stopped / "progress-0.json").read_text())
    assert progress.validation_loss == progress.results["validationLossNatsPerToken"] == told.best
    assert told.best_step in steps_in(stopped), "it was kept"


def load_file_of(storage: Path, step: int) -> dict[str, torch.Tensor]:
    files = (storage / f"checkpoints/step-{step:08d}").glob("model-*.safetensors")
    return {name: tensor for file in files for name, tensor in load(file.read_bytes()).items()}


def test_a_training_killed_at_any_moment_stops_at_the_same_step(text: Path, stopped: Path, tmp_path: Path) -> None:
    settings = that_stops(text, checkpointing={"everySteps": 3, "mode": "Sync"})
    moments = train_and_keep_moments(settings, tmp_path / "whole", tmp_path / "moments")
    assert same_result(tmp_path / "whole", stopped), "nor does it matter how checkpoints are saved"
    stop = told_in(stopped).stopped_at_step or 0
    near = [moment for moment in moments if stop - 2 <= max(steps_in(moment))]
    assert len(near) >= 7, "a kill right after the decision is among them"
    for moment in near:
        assert train_here(settings, moment) == 0
        # The line of a step that was saved and not told of yet is missing: no step was trained after the decision.
        assert max(losses(moment)) in (stop - 1, stop)
        assert max(steps_in(moment)) == stop
        assert same_result(moment, stopped), moment.name


def test_a_training_told_to_end_at_any_step_stops_early_at_the_same_step(
    text: Path, stopped: Path, tmp_path: Path
) -> None:
    settings = that_stops(text)
    stop = told_in(stopped).stopped_at_step or 0
    for step in (1, stop - 3, stop - 2, stop - 1, stop):
        storage = tmp_path / str(step)
        assert train_here(settings, storage, stop_after=step) == EXIT_PREEMPTED
        assert train_here(settings, storage) == 0
        assert same_result(storage, stopped), step


def test_a_training_that_has_stopped_takes_no_more_steps_however_often_it_is_started(
    text: Path, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "artifacts")
    before = steps_in(tmp_path)
    assert train_here(that_stops(text), tmp_path) == 0
    assert steps_in(tmp_path) == before
    assert same_result(tmp_path, stopped)


def test_with_more_patience_it_goes_on_where_it_had_stopped(text: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    stop = told_in(stopped).stopped_at_step or 0
    assert train_here(that_stops(text, earlyStopping={"patienceEvaluations": 3}), tmp_path) == 0
    assert max(losses(tmp_path)) >= stop + 2


def test_without_restore_best_the_model_is_that_of_the_last_step(text: Path, stopped: Path, tmp_path: Path) -> None:
    settings = that_stops(text, earlyStopping={"patienceEvaluations": 2, "restoreBest": False})
    assert train_here(settings, tmp_path) == 0
    told = told_in(tmp_path)
    assert told.model_step == told.stopped_at_step == told_in(stopped).stopped_at_step
    last = load_file_of(tmp_path, told.stopped_at_step or 0)
    saved = load_model(tmp_path / "artifacts/model").state_dict()
    assert all(torch.equal(saved[name], last[name]) for name in last)


def test_a_training_that_comes_to_its_last_step_gives_its_best_model_too(
    text: Path, stopped: Path, tmp_path: Path
) -> None:
    last = told_in(stopped).stopped_at_step
    assert train_here(that_stops(text, totalSteps=last, earlyStopping={"patienceEvaluations": 9}), tmp_path) == 0
    told = told_in(tmp_path)
    assert max(steps_in(tmp_path)) == last
    assert told.stopped_at_step is None
    assert told.model_step == told.best_step == told_in(stopped).best_step


def test_a_best_checkpoint_that_was_damaged_is_passed_over_and_it_is_said(
    text: Path, stopped: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    told = told_in(stopped)
    weights = next((tmp_path / f"checkpoints/step-{told.best_step:08d}").glob("model-*"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    assert train_here(that_stops(text), tmp_path) == 0
    assert f"the checkpoint of step {told.best_step}, the best one, cannot be used" in capfd.readouterr().err
    assert told_in(tmp_path).model_step == told.stopped_at_step


def test_images_are_stopped_by_their_accuracy_and_the_most_accurate_is_kept(tmp_path: Path) -> None:
    images = image_file(tmp_path)
    settings = image_recipe(
        images,
        totalSteps=60,
        optimizer={"learningRate": "5e-2"},
        evaluation={"everySteps": 2, "maxSamples": 20},
        checkpointing={"everySteps": 50},
        earlyStopping={"metric": "Accuracy", "patienceEvaluations": 3},
    )
    assert train_here(settings, tmp_path / "run") == 0
    told = told_in(tmp_path / "run")
    assert told.stopped_at_step is not None
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    accuracies = {line["step"]: int(line["results"]["validationAccuracyPermille"]) for line in lines if line["results"]}
    assert int(told.best) == max(accuracies.values())
    assert told.model_step == told.best_step
    assert told.best_step in steps_in(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", [{"shard": 2}, {"pipeline": 2}], ids=str)
def test_ranks_stop_at_the_same_step_however_they_share_the_work(
    text: Path, tmp_path: Path, parallelism: dict[str, int]
) -> None:
    settings = that_stops(text, model=without_dropout(), parallelism=parallelism)
    runs = [run(settings, tmp_path / "whole"), run(settings, tmp_path / "killed", stop_after=3)]
    codes, errors = train_in_gang([*runs, run(settings, tmp_path / "killed")], 2, tmp_path)
    assert codes == [0, 0], errors
    told = told_in(tmp_path / "whole")
    assert told.stopped_at_step is not None
    assert told.stopped_at_step < 40
    assert same_result(tmp_path / "killed", tmp_path / "whole")
    other = Progress.model_validate_json((tmp_path / "whole/progress-1.json").read_text())
    assert other.early_stopping == told
