"""The learning-rate range test: which rates are tried, when it ends, what it suggests; and a sweep of a real model."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.trainer import losses, recipe, text_file, train_here
from costopt import names
from costopt.schema.range_report import RangeRefusal, RangeReport, RangeRequest
from costopt.schema.replica import EXIT_NOT_RETRYABLE, ReplicaSettings
from costopt_trainer import lr_find
from costopt_trainer.training.range_test import Curve, rates_of, report_of


def curve_of(losses: Sequence[float], rates: Sequence[float]) -> Curve:
    curve = Curve()
    for rate, loss in zip(rates, losses, strict=True):
        curve = curve.after(rate, loss)
    return curve


def request(low: str = "1e-6", high: str = "1", steps: int = 61) -> RangeRequest:
    return RangeRequest(lowest=low, highest=high, steps=steps)


@given(low=st.integers(1, 10**6), times=st.integers(2, 10**6), steps=st.integers(10, 300))
def test_rates_go_from_the_lowest_to_the_highest_by_equal_factors(low: int, times: int, steps: int) -> None:
    rates = rates_of(request(f"{low}e-9", f"{low * times}e-9", steps))
    assert len(rates) == steps
    assert (rates[0], rates[-1]) == (pytest.approx(low * 1e-9), pytest.approx(low * times * 1e-9))
    factors = [later / earlier for earlier, later in itertools.pairwise(rates)]
    assert factors == pytest.approx([factors[0]] * (steps - 1))


@given(losses=st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_a_smoothed_loss_is_the_weighted_mean_of_those_so_far(losses: list[float]) -> None:
    point = curve_of(losses, [1.0] * len(losses)).points[-1]
    weights = [0.9**age for age in range(len(losses))][::-1]
    mean = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert float(point.smoothed_loss) == pytest.approx(mean, rel=1e-6)


def test_the_rate_at_which_the_loss_falls_fastest_is_suggested() -> None:
    rates = rates_of(request())
    losses = [5 - 3 * math.exp(-((math.log10(rate) + 2) ** 2)) for rate in rates]
    losses[40] += 5  # a step that jumps, as they do at high rates
    report = report_of(curve_of(losses, rates), diverged=False)
    steepest = 10 ** (-2 - math.sqrt(1 / 2))  # of that bell, by its second derivative
    assert float(report.suggested_learning_rate or "nan") == pytest.approx(steepest, rel=0.3)
    assert "fell fastest" in report.rule
    assert "--to" not in report.rule
    assert report.end == "HighestRate"


def test_a_loss_that_falls_faster_and_faster_is_said_to() -> None:
    rates = rates_of(request(steps=40))
    report = report_of(curve_of([5 - 0.002 * step**2 for step in range(40)], rates), diverged=False)
    assert float(report.suggested_learning_rate or "nan") >= 0.5
    assert "at the end of the range, so a higher --to may find a higher one" in report.rule


@pytest.mark.parametrize(("diverged", "advice"), [(True, "--from"), (False, "--to")])
def test_without_a_fall_nothing_is_suggested_and_it_is_said_what_would_help(diverged: bool, advice: str) -> None:
    report = report_of(curve_of([5.0] * 20, rates_of(request(steps=20))), diverged=diverged)
    assert report.suggested_learning_rate is None
    assert advice in report.rule
    assert report.end == ("Diverged" if diverged else "HighestRate")


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([5.0] * 30, False),
        ([5.0] * 12 + [6.0] * 18, False),
        ([5.0] * 10 + [3.0] * 10 + [9.0] * 10, True),
        ([5.0] * 10 + [3.0] * 10 + [4.5] * 10, False),
        ([1.0] * 10 + [90.0], True),
        ([1.0] * 5 + [90.0], False),
    ],
    ids=["level", "a little worse", "all is lost again", "a part is lost", "a multiple of the lowest", "too few steps"],
)
def test_a_loss_has_diverged_when_a_further_step_would_tell_nothing(losses: list[float], diverged: bool) -> None:
    assert curve_of(losses, rates_of(request(steps=len(losses) + 10))[: len(losses)]).has_diverged == diverged


# ------------------------------------------------------------------------------------------------- the process itself


def answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: ReplicaSettings, asked: RangeRequest
) -> tuple[int, str]:
    """What the process of `costopt lr-find` returns, and its report."""
    (folder / "settings.json").write_text(settings.model_dump_json(by_alias=True, exclude_none=True))
    (folder / "request.json").write_text(asked.model_dump_json(by_alias=True))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(names.ENV_SETTINGS_FILE, str(folder / "settings.json"))
    monkeypatch.setenv(names.ENV_STORAGE_DIR, str(folder / "storage"))
    (folder / "storage").mkdir(exist_ok=True)
    code = lr_find.main([str(folder / "request.json"), str(folder / "report.json")])
    return code, (folder / "report.json").read_text()


def replica(**work: object) -> ReplicaSettings:
    plain = {"jobName": "test", "stage": "train", "numNodes": 2, "processesPerNode": 2, **work}
    return ReplicaSettings.model_validate(plain)


def test_a_sweep_of_a_real_model_finds_a_rate_at_which_it_learns_and_leaves_only_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(text_file(tmp_path), parallelism={"shard": 2}, compile=True, totalSteps=3)
    asked = request("1e-5", "10", 60)
    code, content = answer(tmp_path, monkeypatch, replica(recipe=settings.to_plain()), asked)
    assert code == 0
    report = RangeReport.model_validate_json(content)
    rates = [float(point.learning_rate) for point in report.points]
    assert rates == pytest.approx(rates_of(asked)[: len(rates)])
    assert report.suggested_learning_rate is not None
    assert 1e-3 <= float(report.suggested_learning_rate) <= 1e-1
    assert [path.name for path in (tmp_path / "storage").iterdir()] == [names.CACHE_DIR]
    again, same = answer(tmp_path, monkeypatch, replica(recipe=settings.to_plain()), asked)
    assert (again, same) == (0, content), "the same settings give the same curve"


def test_the_first_step_has_the_loss_of_a_trainings_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = recipe(text_file(tmp_path))
    assert train_here(settings, tmp_path / "run") == 0
    _, content = answer(tmp_path, monkeypatch, replica(recipe=settings.to_plain()), request(steps=10))
    assert RangeReport.model_validate_json(content).points[0].loss == losses(tmp_path / "run")[1]


@pytest.mark.parametrize("what", ["data", "program"])
def test_what_is_wrong_is_told_in_one_sentence(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = recipe(tmp_path / "missing.txt").to_plain()
    settings = replica(recipe=missing) if what == "data" else replica(command=["true"])
    code, content = answer(tmp_path, monkeypatch, settings, request())
    assert code == EXIT_NOT_RETRYABLE
    message = RangeRefusal.model_validate(json.loads(content)).message
    assert "\n" not in message
    assert ("missing.txt" if what == "data" else "train.recipe must be set") in message
