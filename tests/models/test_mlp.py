"""The classifier of tables: it learns, and keeps the scales of its features with its weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from builders.data import write_table
from builders.trainer import recipe
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training


def test_a_model_of_a_table_learns_and_its_artifact_takes_raw_features(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.npz", count=300)
    settings = recipe(
        path,
        model={"type": "MLP", "mlp": {"numLayers": 2, "width": 32}},
        data={"type": "Table", "table": {"path": str(path)}},
        totalSteps=60,
        optimizer={"learningRate": "1e-2"},
    )
    training = Training(settings, tmp_path, ALONE, Meter(), Stop(), job="test")
    training.resume()
    run_steps(training)
    training.finish()
    assert int(training.progress.results["validationAccuracyPermille"]) > 850
    trained: Any = load_model(tmp_path / "artifacts/model")
    scales = training.data.feature_scales
    assert scales is not None
    assert torch.equal(trained.scale.means_F, scales.means_F)
    with np.load(path) as arrays:
        answers = trained(torch.from_numpy(arrays["features"]).float()).argmax(1).numpy()
        assert (answers == arrays["labels"]).mean() > 0.85
    again = Training(settings, tmp_path, ALONE, Meter(), Stop(), job="test")
    again.resume()
    assert again.step == 60
    assert ModelShape.for_data(settings.model, training.data).to_plain()["numFeatures"] == 5
