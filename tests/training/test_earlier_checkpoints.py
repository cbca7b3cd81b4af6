"""Checkpoints of earlier versions: they load to the bit, training goes on from them, and they are written no more.

`tests/cases/checkpoints/version-1` was written by two ranks of a pipeline, before manifests had a table of tensors.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from builders.trainer import losses, recipe, text_file, train_here, written
from costopt.schema.recipe import Recipe
from costopt_trainer.storage.checkpoint_files import damage_in, read_tensors
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.snapshot import Snapshot

EARLIER = Path(__file__).resolve().parents[1] / "cases/checkpoints/version-1/step-00000004"


def earlier_recipe(text: Path) -> Recipe:
    """What the stored checkpoint was trained with, for four steps more."""
    layers = {"numLayers": 2, "numHeads": 2, "embeddingDim": 8, "contextLength": 8, "dropoutPercent": 10}
    return recipe(text, model={"type": "DecoderLM", "decoderLM": layers})


def with_earlier_checkpoint(storage: Path) -> Path:
    shutil.copytree(EARLIER, storage / "checkpoints" / EARLIER.name)
    return storage


def stored(kind: str) -> dict[str, Tensor]:
    """What the earlier files hold, without our own reader."""
    return {name: tensor for path in EARLIER.glob(f"{kind}-*") for name, tensor in load_file(path).items()}


def test_an_earlier_checkpoint_loads_to_the_bit() -> None:
    assert json.loads((EARLIER / "manifest.json").read_bytes())["version"] == 1
    assert damage_in(EARLIER, 4, "test") is None
    for kind in ("model", "optimizer"):
        read, expected = read_tensors(EARLIER, kind), stored(kind)
        assert read.keys() == expected.keys()
        assert len(read) > 10
        assert all(torch.equal(read[name], expected[name]) for name in read)
    random = read_tensors(EARLIER, "random")
    for rank in (0, 1):
        expected = load_file(EARLIER / f"random-{rank:05d}-00000.safetensors")
        assert torch.equal(random[f"{rank}/cpu"], expected["cpu"])


def test_training_goes_on_from_an_earlier_checkpoint_as_from_the_same_in_this_version(tmp_path: Path) -> None:
    settings = earlier_recipe(text_file(tmp_path))
    earlier, current = with_earlier_checkpoint(tmp_path / "earlier"), tmp_path / "current"
    checkpoints = Checkpoints(current / "checkpoints", job="test", keep_last=2, gang=ALONE)
    checkpoints.prepare()
    checkpoints.save(
        4,
        Snapshot(
            model=stored("model"),
            optimizer=stored("optimizer"),
            random=load_file(EARLIER / "random-00000-00000.safetensors"),
            state=json.loads((EARLIER / "state.json").read_bytes()),
        ),
    )
    checkpoints.add_evaluation(4, json.loads((EARLIER / "evaluation.json").read_bytes()))

    for storage in (earlier, current):
        assert train_here(settings, storage) == 0

    assert list(losses(earlier)) == [5, 6, 7, 8]
    assert losses(earlier) == losses(current)
    assert written(earlier, 8) == written(current, 8)


def test_what_is_written_beside_an_earlier_checkpoint_is_of_this_version(tmp_path: Path) -> None:
    storage = with_earlier_checkpoint(tmp_path / "storage")
    assert train_here(earlier_recipe(text_file(tmp_path)), storage) == 0
    versions = {
        path.parent.name: json.loads(path.read_bytes())["version"]
        for path in storage.glob("checkpoints/*/manifest.json")
    }
    assert versions == {"step-00000004": 1, "step-00000008": 2}


def test_a_damaged_earlier_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoint = with_earlier_checkpoint(tmp_path / "storage") / "checkpoints" / EARLIER.name
    path = checkpoint / "optimizer-00001-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert damage_in(checkpoint, 4, "test") == f"{path.name} has other contents than were written"
