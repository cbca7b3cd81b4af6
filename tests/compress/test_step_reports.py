"""What is told of a training within a step: its steps, and where its time goes."""

from pathlib import Path
from typing import Any

import pytest

from builders.steps import StepStage
from costopt import names
from costopt.schema.compression import Step, trains
from costopt.schema.replica import Progress
from costopt.schema.unions import settings_named
from costopt_trainer.compress.step_reports import StepMeter
from costopt_trainer.compress.table import STEPS, step_of

SECOND = 10**9
FEW: dict[str, Any] = {
    "Quantize": {"quantize": {"scheme": "Int8WeightOnly"}},
    "Prune": {"prune": {"structure": "Unstructured", "percent": 30}},
    "FineTune": {"fineTune": {"steps": 3}},
    "Distill": {"distill": {"steps": 3}},
}
"""A step of each type, in its simplest words."""


@pytest.mark.parametrize("word", [word for word in STEPS if word in FEW])
def test_the_core_knows_without_torch_which_steps_train(word: str) -> None:
    step = Step.model_validate({"type": word, **FEW[word]})
    own = getattr(settings_named(step), "trains", False)
    assert trains([step]) == own
    assert step_of(step).trains or not own, "who says so is given data, ranks and checkpoints"
    assert own or word not in ("FineTune", "Distill")


def test_the_time_between_two_trainings_of_a_variant_is_that_of_neither() -> None:
    now = [0]
    meter = StepMeter(already_ns=2 * SECOND, now=lambda: now[0])

    def at_second(second: int, head: Any) -> None:
        now[0] = second * SECOND
        meter.lap(head)

    meter.begin()
    at_second(3, "startup")
    at_second(10, "training")
    meter.checkpoint_completed(meter.in_steps_ns())
    now[0] = 100 * SECOND  # pruned and measured meanwhile
    meter.begin()
    at_second(101, "startup")
    at_second(105, "training")
    told = meter.metered()
    assert (told.startup, told.productive, told.since_checkpoint) == (6000, 7000, 4000)


def test_a_replica_leaves_an_account_of_all_its_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = StepStage.made("DecoderLM", tmp_path)
    monkeypatch.setenv(names.ENV_PROGRESS_FILE, str(tmp_path / "progress.json"))
    step = Step.model_validate({"type": "FineTune", "fineTune": {"steps": 3}})
    stage.applied(step)
    told = Progress.model_validate_json((tmp_path / "progress.json").read_text())
    assert (told.step, told.total_steps, told.last_checkpoint_step) == (3, 3, 3)
    assert told.metered is not None
    assert told.metered.productive > 0
    assert told.metered.since_checkpoint == 0
    assert set(told.to_plain()) == {"step", "totalSteps", "samplesConsumed", "lastCheckpointStep", "metered", "results"}
