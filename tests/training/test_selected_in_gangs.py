"""Two ranks that learn from a part of the samples have the samples, and so the losses, of one."""

from pathlib import Path
from typing import Any

import pytest

from builders.gangs import Trained, whole_and_in_parts
from builders.launch import replica
from builders.ports import free_port
from builders.trainer import losses, recipe, text_file, train_here, train_in_gang, without_dropout
from costopt.schema.recipe import Recipe
from costopt_trainer.storage.checkpoint_files import read_tensors
from costopt_trainer.training.first_epoch import SCORES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 14
"""An epoch has nine."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"), words=238)


def selecting(text: Path, parallelism: dict[str, Any], **loss: Any) -> Recipe:
    loss = {"by": "FirstEpoch", "keep": "Highest", **loss}
    data = {
        "type": "Text",
        "text": {"path": str(text)},
        "selection": {"type": "Loss", "keepPercent": 40, "loss": loss},
    }
    return recipe(text, model=without_dropout(), data=data, totalSteps=STEPS, parallelism=parallelism)


@pytest.fixture(scope="module")
def pair(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What two ranks have trained by losses of their own."""
    folder = tmp_path_factory.mktemp("pair")
    recipes = {
        "DDP": selecting(text, {}),
        "shard": selecting(text, {"shard": 2}),
        "shard, asked later": selecting(text, {"shard": 2}, firstSteps=5, keep="Middle"),
    }
    codes, errors = train_in_gang(whole_and_in_parts(recipes, folder), 2, folder)
    assert codes == [0, 0], errors
    return Trained(folder, recipes, errors)


@pytest.mark.parametrize("name", ["DDP", "shard", "shard, asked later"])
def test_two_ranks_keep_what_one_keeps_by_its_own_losses(name: str, pair: Trained) -> None:
    assert pair.losses(name) == pytest.approx(pair.losses_of_one_process(name), abs=1e-5)
    assert pair.ends_in_the_same_bits(name), "stopped and resumed, too"
    [two, one] = (
        read_tensors(pair.folder / storage / "checkpoints" / f"step-{STEPS:08d}", "carried")[SCORES]
        for storage in (name, f"{name}-alone")
    )
    assert two.tolist() == pytest.approx(one.tolist(), abs=1e-5), "each sample's loss is that of one rank, once"
    assert (two > 1).all()


def test_a_launcher_s_ranks_see_the_samples_of_one(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    plain = text_file(tmp_path, words=400).read_text()
    text.write_text("\n".join(f"{line} mail me at somebody{len(line)}@example.com" for line in plain.split("g")))
    settings = recipe(
        text,
        model=without_dropout(),
        data={
            "type": "Text",
            "text": {"path": str(text)},
            "transforms": [{"type": "MaskPersonalData"}],
            "augmentations": [{"type": "TokenDropout", "tokenDropout": {"percent": 20}}],
            "selection": {"type": "Loss", "keepPercent": 30, "loss": {"keep": "Middle"}},
        },
        evaluation={"everySteps": 1, "maxSamples": 7},
        totalSteps=STEPS,
    )
    job = {"jobName": "test", "stage": "train", "numNodes": 1, "processesPerNode": 2, "recipe": settings.to_plain()}
    with replica(tmp_path / "two", None, port=free_port(), settings=job) as two:
        assert two.wait() == 0, two.notes
        said = two.output
    assert "selection keeps " in said
    assert "training samples are augmented by TokenDropout" in said
    assert train_here(settings, tmp_path / "one") == 0
    by_two, by_one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert list(by_two) == list(range(1, STEPS + 1))
    assert [float(loss) for loss in by_two.values()] == pytest.approx(
        [float(loss) for loss in by_one.values()], abs=1e-5
    )
