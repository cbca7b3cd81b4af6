"""Labelled rows from an .npz file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.data import table_settings, write_table
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.errors import NotRetryable


def load(path: Path, percent: int = 10) -> TrainingData:
    settings = table_settings(path, validation_percent=percent)
    return load_data(settings, context_length=None, cache_dir=path.parent / "cache")


def test_rows_come_raw_and_no_row_is_lost(tmp_path: Path) -> None:
    features, labels = np.arange(40, dtype=np.float64).reshape(20, 2), np.arange(20) // 10
    np.savez(tmp_path / "a.npz", features=features, labels=labels)
    data = load(tmp_path / "a.npz", percent=30)
    assert (data.num_train_samples, data.num_validation_samples, data.num_classes) == (14, 6, 2)
    train, train_labels = data.train_batch(np.arange(14))
    held_out, held_out_labels = data.validation_batch(np.arange(6))
    assert train.dtype == torch.float32
    rows = torch.cat([train, held_out])
    assert sorted(rows[:, 0].tolist()) == list(range(0, 40, 2))
    assert torch.equal(torch.cat([train_labels, held_out_labels]), (rows[:, 0] // 20).long())


def test_scales_are_those_of_the_training_split_alone(tmp_path: Path) -> None:
    data = load(write_table(tmp_path / "a.npz"), percent=40)
    train, _ = data.train_batch(np.arange(data.num_train_samples))
    scales = data.feature_scales
    assert scales is not None
    torch.testing.assert_close(scales.means_F, train.double().mean(0).float())
    torch.testing.assert_close(scales.deviations_F, train.double().std(0, correction=0).float())


def test_a_feature_that_is_always_the_same_is_scaled_by_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.full((20, 1), 7.0), labels=np.arange(20) % 2)
    scales = load(tmp_path / "a.npz").feature_scales
    assert scales is not None
    assert (scales.means_F.item(), scales.deviations_F.item()) == (7, 1)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "whole numbers": ({"features": np.ones((4, 2), dtype=np.int64)}, "must hold features as floating-point numbers"),
    "one dimension": ({"features": np.ones(4)}, r"floating-point numbers \(N, F\), not float64 4"),
    "no column": ({"features": np.ones((4, 0))}, "not float64 4x0"),
    "a hole": (
        {"features": np.array([[1, 2], [3, np.nan], [1, 2], [1, 2]])},
        "feature 1 of row 1 is nan; such values: 1, in 1 of 4 rows; fill",
    ),
    "too large for FP32": ({"features": np.array([[1.0], [1e39], [1.0], [1.0]])}, r"feature 0 of row 1 is 1e\+39"),
    "one row": ({"features": np.ones((1, 2)), "labels": np.zeros(1, int)}, "at least 2 rows"),
    "too few labels": ({"labels": np.zeros(3, int)}, "one label per row, but holds 3 labels for 4 rows"),
    "no labels": ({"labels": None}, "must hold arrays `features` and `labels`, but lacks labels"),
    "pickles": ({"labels": np.array([0, "a", {}, 1], dtype=object)}, "without pickles"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_with_one_sentence(tmp_path: Path, mistake: str) -> None:
    changes, sentence = MISTAKES[mistake]
    arrays = {"features": np.ones((4, 2)), "labels": np.array([0, 1, 0, 1]), **changes}
    np.savez(tmp_path / "a.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(NotRetryable, match=sentence) as error:
        load(tmp_path / "a.npz")
    assert str(error.value).startswith(f"data.table.path: {tmp_path}")
    assert "\n" not in str(error.value)
