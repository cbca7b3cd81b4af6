"""A learning rate that is lowered when the validation loss no longer falls, at the same steps after any kill."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.moments import train_and_keep_moments
from builders.trainer import recipe, run, text_file, train_here, train_in_gang, without_dropout, written
from costopt.schema.optimization import Schedule
from costopt.schema.recipe import Recipe
from costopt_trainer.training.checkpoint_state import fault_of_state
from costopt_trainer.training.patience import Patience
from costopt_trainer.training.schedules import learning_rate
from costopt_trainer.training.schedules.plateau import Plateau, after_evaluation

FIGURES = st.lists(st.integers(-30, 30).map(lambda tenths: str(Decimal(tenths) / 10)), min_size=1, max_size=40)
MARGINS = st.integers(0, 15).map(lambda tenths: str(Decimal(tenths) / 10))


def seen(values: list[str], margin: str, *, lower_is_better: bool = True) -> list[Patience]:
    """The patience after each of the values; value i is that of step 10 (i + 1)."""
    states = [Patience()]
    for number, value in enumerate(values, start=1):
        states.append(states[-1].after(10 * number, value, margin, lower_is_better=lower_is_better))
    return states[1:]


# ------------------------------------------------------------------------------------------------- the pure decisions


@given(values=FIGURES, margin=MARGINS)
def test_the_best_is_the_lowest_and_of_equals_the_first(values: list[str], margin: str) -> None:
    last = seen(values, margin)[-1]
    lowest = min(range(len(values)), key=lambda place: (Decimal(values[place]), place))
    assert (last.best, last.best_step) == (values[lowest], 10 * (lowest + 1))


@given(values=FIGURES, margin=MARGINS)
def test_evaluations_are_waited_for_since_the_last_that_fell_far_enough(values: list[str], margin: str) -> None:
    mark, waited = Decimal(values[0]), 0
    for value, state in zip(values[1:], seen(values, margin)[1:], strict=True):
        if mark > Decimal(value) and mark - Decimal(value) >= Decimal(margin):
            mark, waited = Decimal(value), 0
        else:
            waited += 1
        assert (Decimal(str(state.mark)), state.waited) == (mark, waited)


@given(values=FIGURES, margin=MARGINS)
def test_of_a_figure_that_should_be_high_the_opposite_decides_the_same(values: list[str], margin: str) -> None:
    opposite = [str(-Decimal(value)) for value in values]
    low, high = seen(values, margin)[-1], seen(opposite, margin, lower_is_better=False)[-1]
    assert (low.best_step, low.waited) == (high.best_step, high.waited)


@given(values=FIGURES, margin=MARGINS, cut=st.integers(0, 40))
def test_a_state_that_was_written_and_read_goes_on_as_the_one_kept(values: list[str], margin: str, cut: int) -> None:
    state = Patience()
    for number, value in enumerate(values, start=1):
        if number == cut:
            state = Patience.model_validate(json.loads(json.dumps(state.to_plain())))
        state = state.after(10 * number, value, margin)
    assert state == seen(values, margin)[-1]


@given(values=FIGURES, margin=MARGINS, patience=st.integers(1, 4), warmup=st.integers(0, 100))
def test_a_rate_is_lowered_after_each_row_of_evaluations_without_improvement(
    values: list[str], margin: str, patience: int, warmup: int
) -> None:
    own = {"patienceEvaluations": patience, "leastImprovement": margin}
    settings = Schedule.model_validate({"type": "ReduceOnPlateau", "warmupSteps": warmup, "reduceOnPlateau": own})
    state = Plateau()
    for number, value in enumerate(values, start=1):
        state = after_evaluation(settings, state, 10 * number, value)
    # By definition, over the whole row: evaluations in the warm-up move the mark but are never counted.
    mark, waited, reductions = None, 0, 0
    for number, value in enumerate(map(Decimal, values), start=1):
        improves = mark is None or (mark > value and mark - value >= Decimal(margin))
        mark = value if improves else mark
        waited = 0 if improves or 10 * number <= warmup else waited + 1
        if waited == patience:
            waited, reductions = 0, reductions + 1
    assert (state.reductions, state.patience.waited) == (reductions, waited)


def test_each_reduction_multiplies_the_rate_down_to_the_lowest() -> None:
    settings = recipe(
        Path("a.txt"),
        totalSteps=100,
        optimizer={"learningRate": "8e-3"},
        schedule={
            "type": "ReduceOnPlateau",
            "warmupSteps": 4,
            "minLearningRate": "1e-3",
            "reduceOnPlateau": {"factor": "0.5"},
        },
    )
    assert [learning_rate(settings, step) for step in (1, 2, 4, 5, 100)] == [2e-3, 4e-3, 8e-3, 8e-3, 8e-3]
    assert [learning_rate(settings, 50, reductions) for reductions in (1, 2, 3, 4, 99)] == [
        4e-3,
        2e-3,
        1e-3,
        1e-3,
        1e-3,
    ]


def test_another_schedule_takes_no_notice_of_reductions() -> None:
    settings = recipe(Path("a.txt"))
    assert learning_rate(settings, 5, 7) == learning_rate(settings, 5)


# ---------------------------------------------------------------------------------------------------- whole trainings


def on_plateau(path: Path, **changes: Any) -> Recipe:
    """One whose loss falls at first by more than is asked for, and then by less."""
    own = {"factor": "0.1", "patienceEvaluations": 1, "leastImprovement": "0.8"}
    return recipe(
        path,
        **{
            "totalSteps": 12,
            "optimizer": {"learningRate": "2e-2"},
            "schedule": {"type": "ReduceOnPlateau", "warmupSteps": 2, "reduceOnPlateau": own},
            "evaluation": {"everySteps": 2, "maxSamples": 7},
            "checkpointing": {"everySteps": 3, "mode": "Sync"},
            **changes,
        },
    )


def rates(storage: Path) -> dict[int, str]:
    """Learning rate by step, from metrics.jsonl."""
    lines = map(json.loads, (storage / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["learningRate"] for line in lines}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


def test_a_training_killed_at_any_moment_lowers_its_rate_at_the_same_steps(text: Path, tmp_path: Path) -> None:
    settings = on_plateau(text)
    moments = train_and_keep_moments(settings, tmp_path / "whole", tmp_path / "moments")
    expected = rates(tmp_path / "whole")
    assert len(expected) == 12
    lowered = sorted({float(rate) for step, rate in expected.items() if step > 2}, reverse=True)
    assert len(lowered) >= 2, "the rate was lowered"
    assert lowered[1] == pytest.approx(lowered[0] / 10)
    assert len(moments) > 12
    for moment in moments:
        assert train_here(settings, moment) == 0
        told = rates(moment)  # the line of the step that was being saved may be missing
        assert told.items() <= expected.items(), moment.name
        assert len(told) >= 11, moment.name
        assert written(moment, 12) == written(tmp_path / "whole", 12), moment.name


def test_a_checkpoint_with_decisions_that_make_no_sense_is_passed_over(text: Path, tmp_path: Path) -> None:
    settings = on_plateau(text)
    assert train_here(settings, tmp_path) == 0
    state = json.loads((tmp_path / "checkpoints/step-00000012/state.json").read_text())
    assert fault_of_state(state, 12) is None
    assert fault_of_state({name: part for name, part in state.items() if name != "decisions"}, 12) is None
    for wrong in ([], "no", {"plateau": {"reductions": -1}}, {"plateau": {"patience": {"best": "nan"}}}, {"more": 1}):
        assert fault_of_state({**state, "decisions": wrong}, 12) == "decisions must be those of a training"


@pytest.mark.slow
def test_two_ranks_lower_their_rate_at_the_steps_of_one(text: Path, tmp_path: Path) -> None:
    settings = on_plateau(text, model=without_dropout())
    assert train_here(settings, tmp_path / "alone") == 0
    codes, errors = train_in_gang([run(settings, tmp_path / "two")], 2, tmp_path)
    assert codes == [0, 0], errors
    assert rates(tmp_path / "two") == rates(tmp_path / "alone")
