"""Two and three ranks, each a real process, over gloo. A gang does many trainings: its start is what takes time."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from builders.gangs import Trained, whole_and_in_parts
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
from costopt.schema.parallelism import Parallelism
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, Progress
from costopt_trainer.data import load_data
from costopt_trainer.models.artifact import load_model
from costopt_trainer.storage.checkpoint_files import read_tensors
from costopt_trainer.training.evaluation import validation_totals

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

GPIPE = {"pipeline": 2, "schedule": "GPipe"}
ONE_F_ONE_B = {"pipeline": 2, "schedule": "OneFOneB"}
CLIPPED = {"gradientClipNorm": "0.95"}  # at work in some steps only: Adam itself would hide gradients of a wrong scale


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What two ranks have trained."""
    folder = tmp_path_factory.mktemp("pair")
    text, images = text_file(folder), image_file(folder)
    plain = {"model": without_dropout(), "optimizer": CLIPPED}
    recipes = {
        "dropout": recipe(text),
        "ConvNet": image_recipe(images),
        "FP16": recipe(text, precision="FP16"),
        "DDP": recipe(text, **plain),
        "GPipe": recipe(text, parallelism=GPIPE, **plain),
        "OneFOneB": recipe(text, parallelism=ONE_F_ONE_B, **plain),
        "one micro-batch": recipe(
            text, parallelism=ONE_F_ONE_B, batch={"globalBatchSize": 4, "microBatchSize": 4}, **plain
        ),
        "pipelined dropout": recipe(text, parallelism=ONE_F_ONE_B),
        "pipelined ConvNet": image_recipe(images, parallelism=GPIPE),
        "pipelined FP16": recipe(text, parallelism=ONE_F_ONE_B, precision="FP16", **plain),
        "pipelined BF16": recipe(text, parallelism=ONE_F_ONE_B, precision="BF16", **plain),
    }
    runs = whole_and_in_parts(recipes, folder)
    runs.append(run(recipes["pipelined FP16"], folder / "overflow", overflow_at=3))
    long = recipe(text, totalSteps=40)
    runs += [run(long, folder / "40"), run(long, folder / "20+20", stop_after=20), run(long, folder / "20+20")]
    # Last of all, because it ends the gang: SIGTERM to the first rank only.
    runs.append(run(recipes["dropout"], folder / "terminated", signal_after=6))
    codes, errors = train_in_gang(runs, 2, folder)
    assert codes == [EXIT_PREEMPTED] * 2, errors
    return Trained(folder, recipes, errors)


BITWISE = ["dropout", "ConvNet", "FP16", "pipelined dropout", "pipelined ConvNet", "pipelined FP16"]


@pytest.mark.parametrize("name", BITWISE)
def test_two_ranks_that_stop_and_resume_end_in_the_same_bits(name: str, pair: Trained) -> None:
    whole = written(pair.folder / name, 8)
    assert whole == written(pair.folder / f"{name}-parts", 8)
    assert {"random-00000-00000.safetensors", "random-00001-00000.safetensors"} <= whole.keys()
    assert losses(pair.folder / name) == losses(pair.folder / f"{name}-parts")
    assert list(losses(pair.folder / name)) == list(range(1, 9))


def test_forty_steps_of_two_ranks_are_twenty_a_stop_and_twenty_more(pair: Trained) -> None:
    assert written(pair.folder / "40", 40) == written(pair.folder / "20+20", 40)
    assert losses(pair.folder / "40") == losses(pair.folder / "20+20")
    assert list(losses(pair.folder / "40")) == list(range(1, 41))


ALIKE = ["DDP", "GPipe", "OneFOneB", "one micro-batch", "pipelined ConvNet", "pipelined FP16", "pipelined BF16"]


@pytest.mark.parametrize("name", ALIKE)
def test_two_ranks_have_the_losses_of_one_process(name: str, pair: Trained) -> None:
    tolerance = 1e-4 if "F16" in name else 1e-6
    assert pair.losses(name) == pytest.approx(pair.losses_of_one_process(name), abs=tolerance)


def test_an_overflow_on_one_rank_of_a_pipeline_skips_the_step_on_all(pair: Trained) -> None:
    checkpoint = pair.folder / "overflow" / "checkpoints" / "step-00000008"
    assert json.loads((checkpoint / "state.json").read_text())["scaler"]["scale"] == 2.0**15, "rank 0 has halved it too"
    optimizer = read_tensors(checkpoint, "optimizer", lambda name: name.endswith("/step"))
    assert len(optimizer) > 10
    assert {float(steps) for steps in optimizer.values()} == {7.0}


@pytest.mark.parametrize("name", ["DDP", "OneFOneB", "pipelined ConvNet"])
def test_two_ranks_evaluate_what_one_process_evaluates(name: str, pair: Trained) -> None:
    pair.losses_of_one_process(name)
    by_two = Progress.model_validate_json((pair.folder / name / "progress-0.json").read_text())
    by_one = Progress.model_validate_json((pair.folder / f"{name}-alone" / "progress-0.json").read_text())
    assert by_two.results.keys() == by_one.results.keys()
    for figure, value in by_two.results.items():
        assert float(value) == pytest.approx(float(by_one.results[figure]), abs=1e-5)


@pytest.mark.parametrize("name", ["ConvNet", "DDP", "pipelined ConvNet"])
def test_what_two_ranks_evaluate_is_the_model_they_save(name: str, pair: Trained) -> None:
    settings = pair.recipes[name]
    context_length = None if "ConvNet" in name else 16
    data = load_data(settings.data, context_length=context_length, cache_dir=pair.folder / name / "cache")
    totals = validation_totals(
        load_model(pair.folder / name / "artifacts" / "model").each_logits,
        data,
        max_samples=settings.evaluation.max_samples,
        micro_batch_size=settings.batch.micro_batch_size,
        device=torch.device("cpu"),
    )
    progress = Progress.model_validate_json((pair.folder / name / "progress-0.json").read_text())
    assert float(progress.validation_loss or "nan") == pytest.approx(totals.loss_sum / totals.num_targets, rel=1e-6)


def test_each_rank_of_a_pipeline_writes_its_own_layers_and_the_artifact_has_all(pair: Trained) -> None:
    files = sorted(path.name for path in (pair.folder / "GPipe" / "checkpoints" / "step-00000008").iterdir())
    assert files == [
        "evaluation.json",
        "manifest.json",
        "model-00000-00000.safetensors",
        "model-00001-00000.safetensors",
        "optimizer-00000-00000.safetensors",
        "optimizer-00001-00000.safetensors",
        "random-00000-00000.safetensors",
        "random-00001-00000.safetensors",
        "state.json",
    ]
    pipelined = load_model(pair.folder / "GPipe" / "artifacts" / "model").state_dict()
    shared = load_model(pair.folder / "DDP" / "artifacts" / "model").state_dict()
    assert pipelined.keys() == shared.keys()
    for name, tensor in pipelined.items():
        torch.testing.assert_close(tensor, shared[name], atol=1e-5, rtol=1e-4)


def test_a_checkpoint_of_a_pipeline_is_resumed_by_one_process(pair: Trained) -> None:
    longer = pair.recipes["GPipe"].model_copy(
        update={"total_steps": 10, "parallelism": pair.recipes["DDP"].parallelism}
    )
    whole = pair.folder / "longer-alone"
    storage = pair.folder / "GPipe-parts"
    assert train_here(longer, storage) == 0
    assert max(losses(storage)) == 10
    # The schedule is another one now, so compare with a training that changed its mind at the same step.
    assert train_here(pair.recipes["DDP"], whole) == 0
    assert train_here(longer, whole) == 0
    told, expected = losses(storage), losses(whole)
    assert [float(told[step]) for step in (9, 10)] == pytest.approx(
        [float(expected[step]) for step in (9, 10)], abs=1e-5
    )


def test_sigterm_to_one_rank_ends_all_at_the_same_step_with_a_checkpoint(pair: Trained) -> None:
    storage = pair.folder / "terminated"
    steps = sorted(path.name for path in (storage / "checkpoints").iterdir())
    assert steps in (["step-00000004", "step-00000006"], ["step-00000004", "step-00000007"])
    reached = int(steps[-1].removeprefix("step-"))
    for rank in (0, 1):
        progress = Progress.model_validate_json((storage / f"progress-{rank}.json").read_text())
        assert (progress.step, progress.last_checkpoint_step) == (reached, reached)
        assert progress.metered is not None
        assert progress.metered.since_checkpoint == 0


def test_two_ranks_say_nothing_but_where_they_resume(pair: Trained) -> None:
    first, second = pair.errors
    # And which number formats this processor has to imitate, which differs from one to the next.
    said = {line for line in first.splitlines() if not line.startswith("precision ")}
    # And how many tokens fill no sample, which is the same for all.
    said = {line for line in said if not line.endswith("fill no context: left out")}
    assert said == {"resuming after step 3", "resuming after step 20"}
    assert second == ""


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What three ranks have trained; in a pipeline, one of them holds neither the first layer nor the last."""
    folder = tmp_path_factory.mktemp("trio")
    text = text_file(folder)
    batch = {"globalBatchSize": 6, "microBatchSize": 1}
    model = without_dropout()
    model["decoderLM"]["numLayers"] = 3
    recipes = {
        "dropout": recipe(text, batch=batch),
        "OneFOneB": recipe(text, batch=batch, model=model, optimizer=CLIPPED, parallelism={"pipeline": 3}),
    }
    codes, errors = train_in_gang(whole_and_in_parts(recipes, folder), 3, folder)
    assert codes == [0, 0, 0], errors
    return Trained(folder, recipes, errors)


@pytest.mark.parametrize("name", ["dropout", "OneFOneB"])
def test_three_ranks_end_in_the_same_bits_too(name: str, trio: Trained) -> None:
    # The order in which three ranks' floats are summed hangs on DDP's buckets, which it reorders after a first pass.
    assert written(trio.folder / name, 8) == written(trio.folder / f"{name}-parts", 8)


def test_a_pipeline_of_three_ranks_has_the_losses_and_evaluation_of_one_process(trio: Trained) -> None:
    name = "OneFOneB"
    assert trio.losses(name) == pytest.approx(trio.losses_of_one_process(name), abs=1e-6)
    by_three = Progress.model_validate_json((trio.folder / name / "progress-0.json").read_text())
    by_one = Progress.model_validate_json((trio.folder / f"{name}-alone" / "progress-0.json").read_text())
    assert float(by_three.validation_loss or "nan") == pytest.approx(float(by_one.validation_loss or 0), abs=1e-5)


@pytest.fixture(scope="module")
def quartet(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What four ranks have trained as two pipelines of two."""
    folder = tmp_path_factory.mktemp("quartet")
    text, images = text_file(folder), image_file(folder)
    recipes = {
        "replicas": recipe(text, model=without_dropout(), optimizer=CLIPPED, parallelism=ONE_F_ONE_B),
        "dropout": recipe(text, parallelism={"dataParallel": 2, "pipeline": 2}),
        "ConvNet": image_recipe(images, parallelism=GPIPE),
    }
    runs = whole_and_in_parts(recipes, folder)
    # And on from what one process has left, in this layout.
    alone = recipes["replicas"].model_copy(update={"parallelism": Parallelism()})
    assert train_here(alone, folder / "begun-alone", stop_after=4) == EXIT_PREEMPTED
    runs.append(run(recipes["replicas"], folder / "begun-alone"))
    codes, errors = train_in_gang(runs, 4, folder)
    assert codes == [0] * 4, errors
    return Trained(folder, recipes, errors)


def test_replicas_of_a_pipeline_have_the_losses_and_evaluation_of_one_process(quartet: Trained) -> None:
    alone = quartet.losses_of_one_process("replicas")
    assert quartet.losses("replicas") == pytest.approx(alone, abs=1e-6)
    by_four = Progress.model_validate_json((quartet.folder / "replicas/progress-0.json").read_text())
    by_one = Progress.model_validate_json((quartet.folder / "replicas-alone/progress-0.json").read_text())
    assert float(by_four.validation_loss or "nan") == pytest.approx(float(by_one.validation_loss or 0), abs=1e-5)


@pytest.mark.parametrize("name", ["replicas", "dropout", "ConvNet"])
def test_replicas_of_a_pipeline_end_in_the_same_bits_when_resumed(name: str, quartet: Trained) -> None:
    assert written(quartet.folder / name, 8) == written(quartet.folder / f"{name}-parts", 8)


def test_only_the_first_replica_of_a_pipeline_writes_the_model(quartet: Trained) -> None:
    names = sorted(written(quartet.folder / "replicas", 8))
    assert [name for name in names if name.startswith("model")] == [
        "model-00000-00000.safetensors",
        "model-00002-00000.safetensors",
    ]
    assert len([name for name in names if name.startswith("random")]) == 4


def test_replicas_of_a_pipeline_go_on_from_what_one_process_has_left(quartet: Trained) -> None:
    alone = quartet.losses_of_one_process("replicas")
    assert quartet.losses("begun-alone") == pytest.approx(alone, abs=1e-6)


@dataclass(frozen=True)
class Failed:
    """What a gang has left that was out of luck three times, and what its ranks said."""

    folder: Path
    recipe: Recipe
    codes: list[int]
    errors: list[str]


@pytest.fixture(scope="module")
def unlucky(tmp_path_factory: pytest.TempPathFactory) -> Failed:
    """A pipeline whose second rank's disk is full, one that diverges, and a rank that is killed."""
    folder = tmp_path_factory.mktemp("unlucky")
    text = text_file(folder)
    pipelined = recipe(text, parallelism=GPIPE)
    optimizer = {"learningRate": "1e38", "gradientClipNorm": "0"}
    runs = [
        run(pipelined, folder / "full", stop_after=2),
        run(pipelined, folder / "full", file_limit_bytes=5000),  # enough for the probe, not for a rank's layers
        run(recipe(text, parallelism=ONE_F_ONE_B, optimizer=optimizer, schedule={}), folder / "diverged"),
        run(recipe(text), folder / "whole"),
        # The checkpoint of step 4 is complete by then: there is never more than one that is being written.
        run(recipe(text), folder / "killed", killed_in_save=8),
    ]
    codes, errors = train_in_gang(runs, 2, folder)
    return Failed(folder, pipelined, codes, errors)


def test_all_ranks_end_with_the_mistake_of_one_and_the_checkpoint_before_stays(unlucky: Failed) -> None:
    for error in unlucky.errors:
        assert "CheckpointNotWritable: cannot write to" in error
        assert "(File too large): free some space or use a larger volume" in error
    storage = unlucky.folder / "full"
    assert [path.name for path in (storage / "checkpoints").iterdir()] == ["step-00000002"]
    alone = unlucky.recipe.model_copy(update={"parallelism": Parallelism()})
    assert train_here(alone, storage) == 0


def test_all_ranks_end_when_the_loss_is_not_finite(unlucky: Failed) -> None:
    assert all("LossNotFinite: the loss of step" in error for error in unlucky.errors)
    assert list((unlucky.folder / "diverged" / "checkpoints").iterdir()) == []


def test_a_rank_killed_while_it_saves_costs_only_the_steps_since_the_checkpoint_before(unlucky: Failed) -> None:
    assert unlucky.codes == [1, -signal.SIGKILL], "the other rank notices"
    complete = [path.name for path in (unlucky.folder / "killed/checkpoints").glob("step-*")]
    assert complete == ["step-00000004"]
    codes, errors = train_in_gang(
        [run(recipe(unlucky.folder / "text-0.txt"), unlucky.folder / "killed")], 2, unlucky.folder
    )
    assert codes == [0, 0], errors
    assert "resuming after step 4" in errors[0]
    assert written(unlucky.folder / "whole", 8) == written(unlucky.folder / "killed", 8)
    assert losses(unlucky.folder / "whole") == losses(unlucky.folder / "killed")
