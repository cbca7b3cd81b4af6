"""With memory.chunkedLoss no rank ever holds the logits of all tokens: not in a step, not in an evaluation, and not at
the end of a pipeline. Losses stay what they are."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.hugging_face import config_file
from builders.largest import Largest
from builders.trainer import (
    Run,
    largest_tensor,
    losses,
    recipe,
    run,
    text_file,
    train_here,
    train_in_gang,
    without_dropout,
)
from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Recipe
from costopt.schema.replica import Progress
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

SAMPLES = 8
ALL_LOGITS = SAMPLES * 16 * 256
"""Of a micro-batch: samples, tokens, vocabulary. Anything else is smaller."""
LAYOUTS: dict[str, dict[str, Any]] = {
    "shard": {"shard": 2},
    "OneFOneB": {"pipeline": 2},
    "ZeroBubble": {"pipeline": 2, "schedule": "ZeroBubble"},
}


def settings(folder: Path, chunked_loss: str, parallelism: dict[str, Any]) -> Recipe:
    model = without_dropout()
    model["decoderLM"]["numLayers"] = 4
    return recipe(
        text_file(folder),
        model=model,
        batch={"globalBatchSize": 4 * SAMPLES, "microBatchSize": SAMPLES},
        optimizer={"gradientClipNorm": "0.95"},
        totalSteps=4,
        evaluation={"everySteps": 2, "maxSamples": 2 * SAMPLES},
        memory={"chunkedLoss": chunked_loss},
        parallelism=parallelism,
    )


def figures(storage: Path) -> list[float]:
    """The loss of each step, and that of the last evaluation."""
    progress = Progress.model_validate_json((storage / "progress-0.json").read_text())
    return [float(loss) for loss in (*losses(storage).values(), progress.validation_loss or "nan")]


def other_families(folder: Path) -> dict[str, dict[str, Any]]:
    """Models of other families, as narrow beside their vocabulary."""
    library = config_file(folder / "library", "llama", vocab_size=256)
    masked = config_file(folder / "masked", "bert", vocab_size=256)
    return {
        "LSTM": {"type": "LSTM", "lstm": {"embeddingDim": 16, "contextLength": 16}},
        "Encoder": {"type": "Encoder", "encoder": {"embeddingDim": 16, "contextLength": 16}},
        "HuggingFace": {"type": "HuggingFace", "huggingFace": {"config": str(library), "contextLength": 16}},
        "HuggingFace, masked": {
            "type": "HuggingFace",
            "huggingFace": {"config": str(masked), "contextLength": 16, "task": "MaskedLM"},
        },
    }


def add_loss(total: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
    total += loss_sum(logits, targets).detach()


@pytest.mark.parametrize("family", ["LSTM", "Encoder", "HuggingFace", "HuggingFace, masked"])
def test_no_family_ever_holds_all_logits(family: str, tmp_path: Path) -> None:
    settings = ModelSettings.model_validate(other_families(tmp_path)[family])
    model = build_model(ModelShape(settings, vocabulary_size=256, pad_id=255)).eval()
    tokens = torch.randint(0, 250, (SAMPLES, 16), generator=torch.Generator().manual_seed(0))
    found: dict[bool, list[float]] = {}
    for chunked in (True, False):
        model.chunked_loss = chunked
        evaluated = torch.zeros(())
        with Largest(last=256) as largest:
            loss = model.loss_sum(tokens, tokens)
            loss.backward()
            model.each_logits(tokens, tokens, partial(add_loss, evaluated))
        assert (largest.elements < ALL_LOGITS) == chunked
        found[chunked] = [loss.item(), evaluated.item()]
    assert found[True] == pytest.approx(found[False], rel=1e-6)


def test_one_process_never_holds_all_logits(tmp_path: Path) -> None:
    for chunked_loss in ("Always", "Never"):
        assert train_here(settings(tmp_path, chunked_loss, {}), tmp_path / chunked_loss, watches_tensors=True) == 0
    assert largest_tensor(tmp_path / "Never") == ALL_LOGITS
    assert largest_tensor(tmp_path / "Always") < ALL_LOGITS
    assert figures(tmp_path / "Always") == pytest.approx(figures(tmp_path / "Never"), abs=2e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_rank_ever_holds_all_logits(tmp_path: Path) -> None:
    def both(name: str) -> list[Run]:
        return [
            run(settings(tmp_path, chunked_loss, LAYOUTS[name]), tmp_path / name / chunked_loss, watches_tensors=True)
            for chunked_loss in ("Always", "Never")
        ]

    codes, errors = train_in_gang([one for name in LAYOUTS for one in both(name)], 2, tmp_path)
    assert codes == [0, 0], errors
    assert train_here(settings(tmp_path, "Never", {}), tmp_path / "alone") == 0
    for name in LAYOUTS:
        assert largest_tensor(tmp_path / name / "Never") >= ALL_LOGITS, name
        assert largest_tensor(tmp_path / name / "Always") < ALL_LOGITS, name
        assert figures(tmp_path / name / "Always") == pytest.approx(figures(tmp_path / "alone"), abs=2e-6), name
