"""Trainings on packed documents: resumed in the same bits, and the same however the work is shared."""

from pathlib import Path
from typing import Any

import pytest

from builders.trainer import losses, recipe, run, train_here, train_in_gang, written
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import read_config


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(80):
        (folder / f"{number:02}.txt").write_text(f"{number} and {number + 1} " * (number % 4 + 1))
    return folder


def packed(texts: Path, boundaries: str, **changes: Any) -> Recipe:
    data = {"type": "Text", "text": {"path": str(texts)}, "packing": {"boundaries": boundaries}}
    return recipe(texts, data=data, **changes)


def test_a_stop_and_a_resume_end_in_the_same_bits(texts: Path, tmp_path: Path) -> None:
    settings = packed(texts, "Attention")
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=3) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", 8) == written(tmp_path / "parts", 8)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert read_config(tmp_path / "parts" / "artifacts" / "model").shape.separator_id == 0
    with pytest.raises(NotRetryable, match="checkpoint"):
        train_here(packed(texts, "Loss", totalSteps=9), tmp_path / "parts")


@pytest.mark.slow
def test_ranks_that_share_matrices_see_the_same_documents(texts: Path, tmp_path: Path) -> None:
    changes = {"model": {"type": "DecoderLM", "decoderLM": {"numHeads": 4, "embeddingDim": 32, "contextLength": 16}}}
    alone = packed(texts, "Attention", **changes)
    assert train_here(alone, tmp_path / "alone") == 0
    shared = {"tensor": {"tensor": 2}, "sequence": {"tensor": 2, "sequenceParallel": True}, "shard": {"shard": 2}}
    runs = [
        run(packed(texts, "Attention", parallelism=degrees, **changes), tmp_path / name)
        for name, degrees in shared.items()
    ]
    codes, errors = train_in_gang(runs, 2, tmp_path)
    assert codes == [0, 0], errors
    for name in shared:
        of_two = {step: float(loss) for step, loss in losses(tmp_path / name).items()}
        assert of_two == pytest.approx(
            {step: float(loss) for step, loss in losses(tmp_path / "alone").items()}, abs=2e-6
        )
