"""Variants of a classifier of documents: pruned to fewer heads and channels, quantized, and measured."""

from pathlib import Path

import pytest

from builders.compress import dynamic, pruned
from builders.data import write_labelled
from builders.trainer import encoder_recipe, train_here
from costopt.schema.compression import Variant
from costopt_trainer.compress import measure, run
from costopt_trainer.models.artifact import load_model, read_config


@pytest.mark.slow
def test_a_classifier_of_documents_is_pruned_and_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    settings = encoder_recipe(
        write_labelled(tmp_path / "animals.jsonl", count=400),
        totalSteps=60,
        batch={"globalBatchSize": 32, "microBatchSize": 32},
        optimizer={"learningRate": "1e-2"},
        encoder={"contextLength": 64, "embeddingDim": 32},
        evaluation={"everySteps": 60},
    )
    storage = tmp_path / "storage"
    assert train_here(settings, storage) == 0
    # Which engine is the fastest is the machine's matter, and a graph of so small a model is larger than its weights.
    variant = Variant(name="light", steps=[pruned("Structured", 50), dynamic()], formats=["Onnx"])
    report = run.make_variant(variant, settings, storage)
    assert report is not None
    assert report.reloaded
    assert report.measured.engine == "OnnxRuntime"
    assert report.measured.size_bytes < report.baseline.size_bytes * 0.6
    assert load_model(storage / report.artifact).widths() == {"attention": (16, 16), "mlp": (64, 64)}
    assert read_config(storage / report.artifact).shape.class_names == ("cat", "dog", "owl")
    assert (report.loss_per, report.bytes_per_token) == ("Sample", None)
    assert (report.baseline.validation_accuracy_permille or 0) > 850
    assert (report.baseline.validation_macro_f1_permille or 0) > 850
    assert report.measured.validation_macro_f1_permille is not None
