"""The table of compression steps: its rows, and one of another kind that the test puts there."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from builders import outside
from builders.compress import (
    StepInPlaceOfPrune,
    apply,
    dynamic,
    example_inputs,
    pruned,
    quantized,
    replica,
    train_stage,
    weight_only,
)
from builders.retraining import STOP_AT
from builders.steps import Killed, StepStage, killed_at
from builders.trainer import start_as_ranks, wait_for
from costopt.schema.compression import External, LowRank, Prune, ShareWeights, Step, Variant, trains
from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt.schema.unions import settings_named
from costopt_trainer.compress import making, measure, run, table
from costopt_trainer.compress.step import StepRun
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config, save_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.phases import PATIENCE_SECONDS

STEPS_TAKEN = 16
EACH: dict[str, Step] = {
    "Quantize": quantized("Int8WeightOnly", fine_tune_steps=5, learning_rate="1e-3"),
    "Prune": pruned("Structured", 50, fine_tune_steps=5, learning_rate="1e-3"),
    "FineTune": Step.model_validate({"type": "FineTune", "fineTune": {"steps": 5, "learningRate": "1e-3"}}),
    "Distill": Step.model_validate({"type": "Distill", "distill": {"student": "EveryOtherLayer", "steps": 5}}),
    "LowRank": Step(type="LowRank", low_rank=LowRank(percent=50)),
    "ShareWeights": Step(type="ShareWeights", share_weights=ShareWeights(layers=2)),
    "External": Step(type="External", external=External(name="scale", settings={"by": "0.5"})),
}
"""A step of each row, which changes a small decoder; one that trains takes at least four steps."""

TRAINING = ("Quantize", "Prune", "FineTune", "Distill")
OF_A_COMMAND = "a step that trains needs a model that a recipe of this job has trained"
UNFIT: dict[str, str] = {
    "Quantize": "needs a model with at least one linear layer",
    "Prune": r"prune\.structure must be Unstructured for this model",
    "FineTune": OF_A_COMMAND,
    "Distill": OF_A_COMMAND,
    "LowRank": "needs a model with linear layers in its layers",
    "ShareWeights": "must divide the 1 layers of the model",
    "External": "needs a model that does not recur",
}
"""What each says to an LSTM whose only linear layer is its embedding, and that a command has trained."""

REPORTED = {
    *("name", "measured", "baseline", "sizeRatio", "speedup", "validationLossIncrease", "artifact", "reloaded"),
    *("trivialLoss", "lossPer", "bytesPerToken", "validationSamples", "verdict", "qualityChange", "details"),
}
MEASURED = {
    "sizeBytes",
    "parameters",
    "nonzeroPermille",
    "latencyMicroseconds",
    "latencyP95Microseconds",
    "validationLoss",
    "engine",
}


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    outside.install(tmp_path_factory.mktemp("installed"), monkeypatch)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> StepStage:
    return StepStage.made("DecoderLM", tmp_path_factory.mktemp("stage"))


def test_the_contract_knows_each_row() -> None:
    assert EACH.keys() == UNFIT.keys() == table.STEPS.keys()


@pytest.mark.parametrize("word", table.STEPS)
def test_each_row_answers_and_gives_the_same_model_whatever_the_process_drew_before(
    word: str, stage: StepStage, tmp_path: Path
) -> None:
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
    assert table.step_trains(step) == trains([step]) == (word in TRAINING)
    assert kind.quality_drop_percent >= 0
    inputs, outputs = example_inputs("DecoderLM"), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random = torch.get_rng_state()
        model, (line,) = stage.copied(tmp_path / str(seed)).applied(step)
        assert line.startswith(word)
        assert torch.equal(torch.get_rng_state(), random)
        outputs.append(model(inputs))
    assert torch.equal(outputs[0], outputs[1])
    assert outputs[0].isfinite().all(), "it still is a model of the same inputs"
    assert not torch.equal(outputs[0], stage.model()(inputs))


@pytest.mark.parametrize("word", TRAINING)
def test_each_row_that_trains_goes_on_after_a_kill_to_the_same_bits(
    word: str, stage: StepStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = EACH[word]
    killed = stage.copied(tmp_path / "killed")
    with monkeypatch.context() as patch:
        killed_at(3, patch)
        with pytest.raises(Killed):
            killed.applied(step)
    again, (line,) = killed.applied(step)
    assert "steps 3 to" in line, "it goes on from the checkpoint of its second step"
    whole, _ = stage.copied(tmp_path / "whole").applied(step)
    inputs = example_inputs("DecoderLM")
    assert torch.equal(again(inputs), whole(inputs))


@pytest.mark.parametrize("word", table.STEPS)
def test_the_artifact_of_each_row_is_what_it_made_and_its_report_is_complete(
    word: str, stage: StepStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    monkeypatch.setattr(making, "verify_in_fresh_process", lambda _folder, _probe: None)  # it is loaded here
    own = stage.copied(tmp_path / "own")
    report = run.make_variant(Variant(name="small", steps=[EACH[word]], measure_seconds=6), own.recipe, own.storage)
    assert report is not None
    folder, inputs = own.storage / report.artifact, example_inputs("DecoderLM")
    made, _ = stage.copied(tmp_path / "other").applied(EACH[word])
    assert torch.equal(load_model(folder)(inputs), made(inputs))
    assert read_config(folder).steps == (EACH[word],)
    plain = report.to_plain()
    assert plain.keys() >= REPORTED
    assert plain["measured"].keys() >= MEASURED
    assert plain["baseline"].keys() >= MEASURED
    assert not (own.storage / "checkpoints/variants/small").exists()


@pytest.mark.slow
def test_a_variant_may_be_pruned_trained_distilled_and_quantized_one_after_another(
    stage: StepStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    steps = [EACH["Prune"], EACH["FineTune"], EACH["Distill"], weight_only()]
    own = stage.copied(tmp_path / "own")
    report = run.make_variant(Variant(name="small", steps=steps, measure_seconds=6), own.recipe, own.storage)
    assert report is not None
    folder, inputs = own.storage / report.artifact, example_inputs("DecoderLM")
    made, told = stage.copied(tmp_path / "other").applied(*steps)
    assert [line.split()[0].rstrip(":") for line in told] == ["Prune", "FineTune", "Distill", "Quantize"]
    assert torch.equal(load_model(folder)(inputs), made(inputs))
    assert report.reloaded
    assert read_config(folder).steps == tuple(steps)
    assert report.measured.parameters < report.baseline.parameters / 2, "of half as wide layers, one of two"
    assert report.measured.size_bytes < report.baseline.size_bytes / 4
    assert not (own.storage / "checkpoints/variants/small").exists()


@pytest.mark.parametrize("word", table.STEPS)
def test_each_row_refuses_a_model_that_it_cannot_change_in_a_sentence(word: str) -> None:
    settings = {"numLayers": 1, "embeddingDim": 8, "contextLength": 8, "tiedEmbeddings": True}
    shape = ModelShape(ModelSettings.model_validate({"type": "LSTM", "lstm": settings}), vocabulary_size=256)
    with pytest.raises(NotRetryable, match=UNFIT[word]) as error:
        apply(build_model(shape), [EACH[word]], torch.zeros((1, 8), dtype=torch.int64))
    assert error.value.reason == "InvalidSettings"
    assert "\n" not in str(error.value)


def test_embeddings_and_a_head_that_is_one_have_8_bits_if_asked_for_and_come_back_so(tmp_path: Path) -> None:
    tied = {"numLayers": 1, "numHeads": 2, "embeddingDim": 32, "contextLength": 16, "tiedEmbeddings": True}
    shape = ModelShape(ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": tied}), vocabulary_size=64)
    torch.manual_seed(0)
    model, inputs = build_model(shape).eval(), torch.arange(32).view(2, 16)
    expected = model(inputs).detach()
    (line,) = apply(model, [quantized("Int8WeightOnly", embeddings=True)], inputs)
    assert line == "Quantize Int8WeightOnly: linear layers with 8-bit weights: 6, embeddings: 2"
    output = model.requires_grad_(False)(inputs)
    assert 0 < float((output - expected).norm() / expected.norm()) < 0.03
    save_model(tmp_path / "few", model, shape)
    loaded = load_model(tmp_path / "few")
    assert torch.equal(loaded(inputs), output)
    assert loaded.head.weight is loaded.token_embedding.weight  # type: ignore[union-attr]


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
    settings.write_text(
        replica(recipe, pruned("Unstructured", percent, fine_tune_steps=1)).model_dump_json(by_alias=True)
    )
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
    assert not list((stopped / "artifacts").glob("**/small"))
    codes, said = make(stopped, trained[1])
    assert codes == [0, 0]
    went_on = re.search(rf"small: Retrain: steps (\d+) to {STEPS_TAKEN} on 2 ranks", said[0])
    assert went_on is not None
    assert int(went_on[1]) > 5, "the steps before the stop are not taken again"

    made = [next((storage / "artifacts").glob("**/small/model.safetensors")) for storage in (whole, stopped)]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert made[0].read_bytes() != (whole / "artifacts/model/model.safetensors").read_bytes()
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
