"""Trainings on each kind of source: resumed to the same bits, and refused where the data is other than it was."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from builders.data import write_image_folder
from builders.trainer import losses, recipe, train_here, written
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable

CONV_NET = {"type": "ConvNet", "convNet": {"numStages": 2, "baseChannels": 4}}
Change = Callable[[], object]


def records(folder: Path) -> tuple[dict[str, Any], Change]:
    """Rows of Parquet, and how to change one of them."""
    source = random.Random(0)
    rows = [{"q": "".join(source.choices("abcd ", k=60)), "a": number} for number in range(200)]
    path = folder / "a.parquet"

    def write() -> None:
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)

    def change() -> None:
        rows[7]["a"] = 0
        write()

    write()
    return {"data": {"type": "Records", "records": {"path": str(path), "template": "{q}: {a}\n"}}}, change


def tokens(folder: Path) -> tuple[dict[str, Any], Change]:
    """Token numbers of 16 bits in two files, and how to change one of them."""
    numbers = np.random.default_rng(0).integers(0, 300, 8000).astype("<u2")
    for name, part in zip(("a.bin", "b.bin"), np.split(numbers, [5000]), strict=True):
        part.tofile(folder / name)
    data = {"type": "TokenShards", "tokenShards": {"path": str(folder), "vocabularySize": 300}}
    return {"data": data}, lambda: numbers[:5000][::-1].tofile(folder / "a.bin")


def images(folder: Path) -> tuple[dict[str, Any], Change]:
    """Images by class, and how to change one of them."""
    path = write_image_folder(folder / "images", count=90, side=8)
    data = {"type": "ImageFolder", "imageFolder": {"path": str(path)}}
    return {"model": CONV_NET, "data": data}, (path / "red/0.png").unlink


@pytest.mark.parametrize("source", [records, tokens, images])
def test_a_training_is_resumed_to_the_same_bits_and_on_no_other_data(
    source: Callable[[Path], tuple[dict[str, Any], Change]], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    changes, change = source(data)
    settings = recipe(data, **changes)
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=3) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", 8) == written(tmp_path / "parts", 8)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    results = json.loads((tmp_path / "whole/progress-0.json").read_text())["results"]
    assert any(name.startswith("validationLossNatsPer") for name in results)
    change()
    with pytest.raises(NotRetryable, match="the checkpoint of step 8 is of another training: data was") as refused:
        train_here(settings, tmp_path / "parts")
    if source is not images:
        name = "a.parquet" if source is records else "a.bin"
        assert f"({data / name} has changed)" in str(refused.value)


def test_samples_that_were_left_out_stand_in_the_progress(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {number} of some words"}) for number in range(200)]
    lines[7] = "{"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    records = {"path": str(tmp_path / "a.jsonl"), "onBadSample": "Skip"}
    settings = recipe(tmp_path, data={"type": "Records", "records": records})
    assert train_here(settings, tmp_path / "run") == 0
    assert (
        json.loads((tmp_path / "run/progress-0.json").read_text())["badSamples"]
        == (
            "1 of 200 samples are bad and left out; the first: "
            f"{tmp_path}/a.jsonl, line 8, must be JSON in UTF-8, one object a line"
        )[:256]
    )
