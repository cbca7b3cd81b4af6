"""What is written down of a trained model beside it."""

from pathlib import Path
from typing import Any

import pytest

from builders.trainer import recipe, text_file, train_here
from costopt.artifacts import find_difference, read_manifest
from costopt.names import ENV_JOB_UID
from costopt.schema.replica import Progress
from costopt_trainer.data import load_data
from costopt_trainer.models.artifact import read_config


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


def trained(text: Path, storage: Path, **changes: Any) -> Path:
    assert train_here(recipe(text, **changes), storage) == 0
    return storage / "artifacts/model"


def test_a_manifest_tells_files_lineage_figures_and_machine(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_JOB_UID, "uid-of-the-job")
    settings = recipe(text)
    model = trained(text, tmp_path)
    manifest = read_manifest(model)
    assert find_difference(model, manifest) is None
    assert manifest.name == "model"
    assert manifest.formats == ["Safetensors"]
    weights = next(file for file in manifest.files if file.path == "model.safetensors")
    config = read_config(model)
    assert (weights.sha256, weights.size_bytes) == (config.weights_sha256, config.weights_bytes)
    lineage = manifest.lineage
    assert (lineage.job, lineage.job_uid, lineage.checkpoint_step) == ("test", "uid-of-the-job", 8)
    assert lineage.recipe == settings
    data = load_data(settings.data, context_length=16, cache_dir=tmp_path / "cache")
    assert lineage.data_fingerprint == data.fingerprint
    assert manifest.validation_loss is not None
    assert "validationLossNatsPerToken" in manifest.results
    assert manifest.machine.threads >= 1
    assert {"python", "torch"} <= manifest.machine.versions.keys()
    assert manifest.licence is None


def test_the_tokenizer_that_was_learnt_lies_beside_the_model(text: Path, tmp_path: Path) -> None:
    data = {"type": "Text", "text": {"path": str(text)}, "tokenizer": {"type": "BPE", "vocabularySize": 300}}
    model = trained(text, tmp_path, data=data)
    assert (model / "tokenizer.json").read_text().startswith("{")
    assert "tokenizer.json" in [file.path for file in read_manifest(model).files]


def test_the_manifest_is_of_the_checkpoint_that_the_model_is_of(text: Path, tmp_path: Path) -> None:
    """A rate that is far too high makes a trained model worse: the best evaluation is not the last one."""
    optimizer = {"type": "AdamW", "learningRate": "0.3"}
    stopping = {"metric": "ValidationLoss", "patienceEvaluations": 9}
    model = trained(text, tmp_path, totalSteps=16, earlyStopping=stopping, optimizer=optimizer)
    manifest = read_manifest(model)
    progress = Progress.model_validate_json((tmp_path / "progress-0.json").read_text())
    assert progress.early_stopping is not None
    assert manifest.lineage.checkpoint_step == progress.early_stopping.model_step
    assert manifest.validation_loss == progress.validation_loss == progress.early_stopping.best
    assert progress.step == 16
