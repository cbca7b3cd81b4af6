"""The table of compression steps: its rows, and one of another kind that the test puts there."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from builders.compress import (
    StepInPlaceOfPrune,
    apply,
    dynamic,
    example_inputs,
    fresh_model,
    pruned,
    replica,
    train_stage,
    weight_only,
)
from builders.retraining import STOP_AT
from builders.trainer import start_as_ranks, wait_for
from costopt.schema.compression import Prune, Step
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt.schema.unions import settings_named
from costopt_trainer.compress import run, table
from costopt_trainer.compress.step import StepRun
from costopt_trainer.phases import PATIENCE_SECONDS

STEPS_TAKEN = 16
EACH: dict[str, Step] = {"Quantize": weight_only(), "Prune": pruned("Unstructured", 50)}


@pytest.mark.parametrize("word", table.STEPS)
def test_each_row_fulfils_the_contract(word: str) -> None:
    step = EACH[word]
    kind = table.step_of(step)
    settings = settings_named(step)
    assert kind.phase in PATIENCE_SECONDS
    for answer in (
        kind.trains,
        kind.changes_shapes(settings),
        kind.wants_speed(settings),
        kind.wants_compile(settings),
    ):
        assert isinstance(answer, bool)
    model = fresh_model("DecoderLM")
    (line,) = apply(model, [step], example_inputs("DecoderLM")[:1])
    assert line.startswith(word)
    assert model(example_inputs("DecoderLM")).isfinite().all(), "it still is a model of the same inputs"


def test_what_holds_for_one_step_holds_for_the_variant() -> None:
    assert table.changes_shapes([pruned("Structured", 50), weight_only()])
    assert not table.changes_shapes([pruned("Unstructured", 50), weight_only()])
    assert table.wants_compile([pruned("Unstructured", 50), dynamic()])
    assert not table.trains([pruned("Structured", 50), dynamic()])


class HalvedStep(StepInPlaceOfPrune):
    """A step that nobody ships."""

    def apply(self, model: nn.Module, settings: Prune, _run: StepRun) -> str:
        for parameter in model.parameters():
            parameter.data.mul_(settings.percent / 100)
        return "Halved"


HALVED = HalvedStep()


def test_a_row_and_a_file_are_all_that_a_new_step_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.STEPS, "Prune", f"{__name__}:HALVED")
    storage = tmp_path / "storage"
    storage.mkdir()
    recipe = train_stage("ConvNet", storage)
    report = run.make_variant(replica(recipe, pruned("Unstructured", 50)).variant, recipe, storage)  # type: ignore[arg-type]
    assert report is not None
    assert report.reloaded
    assert report.measured.validation_loss != report.baseline.validation_loss


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/variants"])
def test_nothing_behind_a_link_is_thrown_away_when_a_variant_is_made(tmp_path: Path, place: str) -> None:
    storage, elsewhere = tmp_path / "storage", tmp_path / "elsewhere"
    theirs = elsewhere / ("small" if place.endswith("variants") else "variants/small") / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("of somebody")
    (storage / place).parent.mkdir(parents=True)
    (storage / place).symlink_to(elsewhere)
    recipe = train_stage("ConvNet", storage)
    assert run.make_variant(replica(recipe, pruned("Unstructured", 50)).variant, recipe, storage) is not None  # type: ignore[arg-type]
    assert theirs.read_text() == "of somebody"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    storage = tmp_path_factory.mktemp("trained")
    return storage, train_stage("DecoderLM", storage)


def make(storage: Path, recipe: Recipe, percent: int = STEPS_TAKEN, **environment: str) -> tuple[list[int], list[Any]]:
    """Two ranks make a variant; exit codes and what rank 0 said."""
    settings = storage / "settings.json"
    settings.write_text(replica(recipe, pruned("Unstructured", percent)).model_dump_json(by_alias=True))
    ranks = start_as_ranks(["builders.retraining", str(settings), str(storage)], 2, **environment)
    said: list[Any] = []
    codes, errors = wait_for(ranks, said=said)
    assert "Traceback" not in "".join(errors), errors
    return codes, said


@pytest.mark.slow
def test_a_step_may_train_on_several_ranks_tell_its_progress_and_go_on_where_it_was_stopped(
    trained: tuple[Path, Recipe], tmp_path: Path
) -> None:
    whole, stopped = (Path(shutil.copytree(trained[0], tmp_path / name)) for name in ("whole", "stopped"))
    codes, said = make(whole, trained[1])
    assert codes == [0, 0]
    assert f"small: Retrain: steps 1 to {STEPS_TAKEN} on 2 ranks" in said[0]
    assert '{"phase":"Pruning","percent":50}' in said[0]

    codes, said = make(stopped, trained[1], **{STOP_AT: "5"})
    assert codes == [EXIT_PREEMPTED, EXIT_PREEMPTED]
    assert not (stopped / "artifacts/small").exists()
    codes, said = make(stopped, trained[1])
    assert codes == [0, 0]
    went_on = re.search(rf"small: Retrain: steps (\d+) to {STEPS_TAKEN} on 2 ranks", said[0])
    assert went_on is not None
    assert int(went_on[1]) > 5, "the steps before the stop are not taken again"

    file = "artifacts/small/model.safetensors"
    assert (whole / file).read_bytes() == (stopped / file).read_bytes()
    assert (whole / file).read_bytes() != (whole / "artifacts/model/model.safetensors").read_bytes()
    for storage in (whole, stopped):
        assert not (storage / "checkpoints/variants/small").exists(), "nothing is kept of what is done"


@pytest.mark.slow
def test_a_step_does_not_go_on_from_a_checkpoint_of_other_settings(
    trained: tuple[Path, Recipe], tmp_path: Path
) -> None:
    storage = Path(shutil.copytree(trained[0], tmp_path / "storage"))
    assert make(storage, trained[1], **{STOP_AT: "3"})[0] == [EXIT_PREEMPTED, EXIT_PREEMPTED]
    codes, said = make(storage, trained[1], percent=4)
    assert codes == [0, 0]
    assert "small: Retrain: steps 1 to 4 on 2 ranks" in said[0]
