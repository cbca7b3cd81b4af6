"""Every way to share the work: twenty steps have the losses of one process, and a resume the same bits.

All with gradient accumulation, and a norm that is clipped in some steps only. Then one training that changes its layout
again and again.
"""

import json
from pathlib import Path

import pytest

from builders.data import write_table
from builders.gangs import Trained, whole_and_its_end
from builders.trainer import (
    Run,
    image_file,
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
from costopt_trainer.models.artifact import load_model
from costopt_trainer.storage.checkpoint_files import read_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 20
TOLERANCE = 2e-6
"""Of losses of about 5.4: sums are taken in another order, and Adam divides by small numbers."""

TWO: dict[str, dict[str, object]] = {
    "replicas": {"dataParallel": 2},
    "GPipe": {"pipeline": 2, "schedule": "GPipe"},
    "OneFOneB": {"pipeline": 2, "schedule": "OneFOneB"},
    "shard": {"shard": 2},
    "tensor": {"tensor": 2},
    "sequence": {"tensor": 2, "sequenceParallel": True},
    "Interleaved": {"pipeline": 2, "schedule": "Interleaved"},
    "ZeroBubble": {"pipeline": 2, "schedule": "ZeroBubble"},
    "placed by hand": {"pipeline": 2, "layersPerStage": [1, 3]},
}
FOUR: dict[str, dict[str, object]] = {
    "replicas": {"dataParallel": 4},
    "tensor": {"tensor": 4},
    "pipeline": {"pipeline": 4, "schedule": "OneFOneB"},
    "Interleaved": {"pipeline": 4, "schedule": "Interleaved"},
    "shard": {"shard": 4},
    "hybrid": {"dataParallel": 2, "shard": 2},
    "replicas x tensor": {"dataParallel": 2, "tensor": 2},
    "shard x tensor": {"shard": 2, "tensor": 2, "sequenceParallel": True},
    "shard x pipeline": {"shard": 2, "pipeline": 2},
    "replicas x ZeroBubble": {"dataParallel": 2, "pipeline": 2, "schedule": "ZeroBubble"},
}


SEVERAL_STAGES = ("Interleaved", "ZeroBubble")


def settings(text: Path, parallelism: dict[str, object], **changes: object) -> Recipe:
    model = without_dropout()
    if parallelism.get("schedule") in SEVERAL_STAGES or "layersPerStage" in parallelism:
        model["decoderLM"]["numLayers"] = 4
    if parallelism.get("pipeline") == 4:
        model["decoderLM"]["numLayers"] = 8 if parallelism["schedule"] in SEVERAL_STAGES else 4
    if parallelism.get("tensor") == 4:
        model["decoderLM"]["numHeads"] = 4
    if parallelism.get("schedule") == "ZeroBubble":
        model["decoderLM"]["preset"] = "GPT2"  # whose first and last stage have one matrix together
    if "sequenceParallel" in parallelism:
        model["decoderLM"] |= {"preset": "Llama", "numHeads": 4, "numKeyValueHeads": 2}
    plain = {
        "model": model,
        "optimizer": {"gradientClipNorm": "0.95"},
        "totalSteps": STEPS,
        "evaluation": {"everySteps": STEPS, "maxSamples": 7},
        "checkpointing": {"everySteps": 17},
        "parallelism": parallelism,
    }
    return recipe(text, **(plain | changes))


SHORT = {"totalSteps": 8, "checkpointing": {"everySteps": 6}}
FP16 = ("shard FP16", "tensor FP16")
OVERFLOW_AT = 3
FAMILIES = ("ResNet", "MLP", "LSTM", "Import")
OWN_MODEL = """\
from torch import nn


def small(vocabulary_size):
    return nn.Sequential(nn.Embedding(vocabulary_size, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, vocabulary_size))
"""


def of_family(family: str, folder: Path, text: Path) -> Recipe:
    """A model of another family, shared out."""
    (folder / "own_models.py").write_text(OWN_MODEL)
    own = {"function": "own_models:small", "path": str(folder), "contextLength": 16}
    images, table = image_file(folder), write_table(folder / "table.npz", count=300)
    of_text, of_images = (
        {"type": "Text", "text": {"path": str(text)}},
        {"type": "Images", "images": {"path": str(images)}},
    )
    model, data = {
        "ResNet": ({"type": "ResNet", "resNet": {"numStages": 2, "numBlocks": 2, "baseChannels": 4}}, of_images),
        "MLP": ({"type": "MLP", "mlp": {"width": 16}}, {"type": "Table", "table": {"path": str(table)}}),
        "LSTM": ({"type": "LSTM", "lstm": {"embeddingDim": 16, "contextLength": 16}}, of_text),
        "Import": ({"type": "Import", "import": own}, of_text),
    }[family]
    return settings(text, {"shard": 2}, model=model, data=data, **SHORT)


def gang_of(world_size: int, recipes: dict[str, Recipe], folder: Path, *also: Run) -> Trained:
    codes, errors = train_in_gang([*also, *whole_and_its_end(recipes, folder)], world_size, folder)
    assert codes == [0] * world_size, errors
    return Trained(folder, recipes, errors)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def pair(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("pair")
    recipes = {name: settings(text, degrees) for name, degrees in TWO.items()}
    one_batch = {"globalBatchSize": 4, "microBatchSize": 4}
    recipes["one micro-batch"] = settings(text, {"pipeline": 2}, batch=one_batch)
    recipes["shard FP16"] = settings(text, {"shard": 2, "reshardAfterForward": False}, precision="FP16", **SHORT)
    recipes["tensor FP16"] = settings(text, {"tensor": 2}, precision="FP16", **SHORT)
    recipes["shard BF16"] = settings(text, {"shard": 2}, precision="BF16", **SHORT)
    recipes |= {family: of_family(family, folder, text) for family in FAMILIES}
    overflows = [run(recipes[name], folder / f"{name} overflows", overflow_at=OVERFLOW_AT) for name in FP16]
    return gang_of(2, recipes, folder, *overflows)


@pytest.fixture(scope="module")
def quartet(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("quartet")
    batch = {"globalBatchSize": 16, "microBatchSize": 2}
    recipes = {name: settings(text, degrees, batch=batch) for name, degrees in FOUR.items()}
    # Each micro-batch is one of all ranks, which exchange much: two of them are enough, and take a quarter of the time.
    recipes["tensor"] = settings(text, FOUR["tensor"], batch={**batch, "microBatchSize": 8})
    return gang_of(4, recipes, folder)


@pytest.mark.parametrize("name", [*TWO, "one micro-batch"])
def test_two_ranks_have_the_losses_of_one_process(name: str, pair: Trained) -> None:
    assert list(pair.losses(name)) == list(range(1, STEPS + 1))
    assert pair.losses(name) == pytest.approx(pair.losses_of_one_process(name), abs=TOLERANCE)


@pytest.mark.parametrize("name", FOUR)
def test_four_ranks_have_the_losses_of_one_process(name: str, quartet: Trained) -> None:
    assert list(quartet.losses(name)) == list(range(1, STEPS + 1))
    assert quartet.losses(name) == pytest.approx(quartet.losses_of_one_process(name), abs=TOLERANCE)


@pytest.mark.parametrize(("name", "tolerance"), [("shard FP16", 1e-4), ("tensor FP16", 1e-4), ("shard BF16", 2e-3)])
def test_half_precision_comes_near_them(name: str, tolerance: float, pair: Trained) -> None:
    assert pair.losses(name) == pytest.approx(pair.losses_of_one_process(name), abs=tolerance)


@pytest.mark.parametrize("name", FP16)
def test_an_overflow_on_one_of_the_ranks_that_share_a_model_skips_the_step_on_all(name: str, pair: Trained) -> None:
    """It is in what the last of them holds, and the others have not seen it."""
    checkpoint = pair.folder / f"{name} overflows/checkpoints/step-00000008"
    assert json.loads((checkpoint / "state.json").read_text())["scaler"]["scale"] == 2.0**15
    steps = read_tensors(checkpoint, "optimizer", lambda of: of.endswith("/step"))
    assert len(steps) > 10
    assert {float(taken) for taken in steps.values()} == {7.0}
    alone = pair.folder / f"{name} overflows alone"
    one = pair.recipes[name].model_copy(update={"parallelism": Parallelism()})
    assert train_here(one, alone, overflow_at=OVERFLOW_AT) == 0
    assert pair.losses(f"{name} overflows") == pytest.approx(
        {step: float(loss) for step, loss in losses(alone).items()}, abs=1e-4
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_that_are_shared_out_have_the_losses_of_one_process_and_resume(name: str, pair: Trained) -> None:
    assert list(pair.losses(name)) == list(range(1, 9))
    assert pair.losses(name) == pytest.approx(pair.losses_of_one_process(name), abs=TOLERANCE)
    assert pair.ends_in_the_same_bits(name)


@pytest.mark.parametrize("name", [*TWO, "one micro-batch", *FP16])
def test_two_ranks_that_are_resumed_end_in_the_same_bits(name: str, pair: Trained) -> None:
    assert pair.ends_in_the_same_bits(name)


@pytest.mark.parametrize("name", FOUR)
def test_four_ranks_that_are_resumed_end_in_the_same_bits(name: str, quartet: Trained) -> None:
    assert quartet.ends_in_the_same_bits(name)


def test_each_rank_writes_what_it_holds_and_no_element_is_written_twice(quartet: Trained) -> None:
    def sizes(name: str) -> dict[str, int]:
        return {path: len(content) for path, content in written(quartet.folder / name, STEPS).items()}

    for name, writers in (("shard", 4), ("hybrid", 2), ("replicas x tensor", 2), ("shard x tensor", 4)):
        per_rank = {path: size for path, size in sizes(name).items() if path.startswith("model")}
        assert len(per_rank) == writers, name
        assert max(per_rank.values()) < 0.75 * sum(per_rank.values()), name
    whole = load_model(quartet.folder / "shard" / "artifacts" / "model").state_dict()
    for name in ("shard", "hybrid", "replicas x tensor", "shard x pipeline"):
        checkpoint = quartet.folder / name / "checkpoints" / f"step-{STEPS:08d}"
        stored = read_tensors(checkpoint, "model")
        assert {key: tensor.shape for key, tensor in stored.items()} == {key: t.shape for key, t in whole.items()}


@pytest.mark.parametrize("name", ["shard", "tensor"])
def test_two_ranks_evaluate_what_one_process_evaluates(name: str, pair: Trained) -> None:
    def evaluated(storage: Path) -> float:
        progress = Progress.model_validate_json((storage / "progress-0.json").read_text())
        return float(progress.validation_loss or "nan")

    pair.losses_of_one_process(name)
    assert evaluated(pair.folder / name) == pytest.approx(evaluated(pair.folder / f"{name}-alone"), abs=1e-5)


def test_a_training_may_change_its_layout_at_every_stop(text: Path, tmp_path: Path) -> None:
    storage = tmp_path / "changing"

    def part(degrees: dict[str, object], until: int | None) -> Run:
        changed = settings(text, {}, checkpointing={"everySteps": STEPS})
        changed = changed.model_copy(update={"parallelism": Parallelism.model_validate(degrees)})
        return run(changed, storage, stop_after=until)

    def go_on(ranks: int, *parts: Run) -> None:
        codes, errors = train_in_gang(list(parts), ranks, tmp_path)
        assert codes == [0 if parts[-1].stop_after is None else EXIT_PREEMPTED] * ranks, errors

    go_on(1, part({}, 4))
    go_on(2, part({"dataParallel": 2}, 6), part({"shard": 2}, 8), part({"tensor": 2}, 10))
    go_on(4, part({"shard": 2, "tensor": 2}, 13))
    go_on(2, part({"pipeline": 2}, 16))
    go_on(1, part({}, None))
    whole = Trained(tmp_path, {"changing": settings(text, {})}, [])
    assert list(whole.losses("changing")) == list(range(1, STEPS + 1))
    assert whole.losses("changing") == pytest.approx(whole.losses_of_one_process("changing"), abs=TOLERANCE)
