"""Labelled rows from one `.npz` file, held in memory.

The file is read with pickle refused. Rows and labels are put in a fixed shuffled order before the end is held out.
Features stay as they are: a model that reads tables begins with their means and deviations over the training split, and
scales them itself, so that what it is given later is raw as well.

Shape suffixes: N = rows in the file, B = rows of a batch, F = features.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema.data import SourceSettings
from costopt.schema.data_report import TableReport
from costopt_trainer.data.counted import of_classes, printable
from costopt_trainer.data.files.places import shown
from costopt_trainer.data.sources.npz_file import checked_labels, invalid, load_arrays, split_shuffled
from costopt_trainer.data.training_data import Batch, FeatureScales, TrainingData


@dataclass(frozen=True)
class Rows:
    """Rows with their labels, one split of a file."""

    features_NF: NDArray[np.float32]
    labels_N: NDArray[np.int64]

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Rows `indices` as float32 (B, F), and labels int64 (B,)."""
        return torch.from_numpy(self.features_NF[indices]), torch.from_numpy(self.labels_N[indices])


class TableFile:
    """A source of samples: the rows of a file, of which the last are held out after shuffling (at least one)."""

    def __init__(self, settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None) -> None:
        """Read and check the file. Raises NotRetryable("InvalidData") with a sentence that says what it must hold."""
        if settings.table is None:
            raise ValueError("data of type Table must have table settings")
        self._validation_percent = settings.validation_percent
        place = settings.table.path
        self.name = name = f"data.table.path: {shown(place)}"
        (features, labels), self._digest = load_arrays(
            "data.table.path", place, ("features", "labels"), own_folder, cache_dir
        )
        self._features_NF = _checked_features(features, name)
        self._labels_N = checked_labels(labels, len(self._features_NF), name, "row")

    def samples(self) -> TrainingData:
        """The rows, split."""
        of_train, of_validation = split_shuffled(len(self._labels_N), self._validation_percent)
        train = Rows(self._features_NF[of_train], self._labels_N[of_train])
        validation = Rows(self._features_NF[of_validation], self._labels_N[of_validation])
        return TrainingData(
            num_train_samples=len(of_train),
            num_validation_samples=len(of_validation),
            tokens_per_sample=1,
            train_batch=train.batch,
            validation_batch=validation.batch,
            fingerprint=f"{self._digest}-{self._validation_percent}",
            feature_scales=_scales(train.features_NF),
            num_classes=int(self._labels_N.max()) + 1,
        )

    def report(self, *, sample: bool) -> TableReport:  # noqa: ARG002 - all of it is in memory already
        """What is there."""
        data = self.samples()
        train_NF, _ = data.train_batch(np.arange(data.num_train_samples))
        return TableReport(
            source=printable(self.name),
            rows=len(self._labels_N),
            features=self._features_NF.shape[1],
            constant_features=int((train_NF == train_NF[:1]).all(dim=0).sum()),
            num_classes=int(self._labels_N.max()) + 1,
            classes=of_classes(self._labels_N, None),
            train_rows=data.num_train_samples,
            validation_rows=data.num_validation_samples,
        )


def _checked_features(features: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    if not np.issubdtype(features.dtype, np.floating) or features.ndim != 2 or 0 in features.shape:
        shape = "x".join(str(extent) for extent in features.shape) or "scalar"
        raise invalid(name, f"must hold features as floating-point numbers (N, F), not {features.dtype} {shape}")
    if len(features) < 2:
        raise invalid(name, "must hold at least 2 rows, one to train on and one to hold out, but holds 1")
    with np.errstate(over="ignore"):
        features_NF: NDArray[np.float32] = features.astype(np.float32)
    finite_NF = np.isfinite(features_NF)
    if not finite_NF.all():
        row, column = (int(number) for number in np.argwhere(~finite_NF)[0])
        num_values, num_rows = np.count_nonzero(~finite_NF), np.count_nonzero(~finite_NF.all(axis=1))
        raise invalid(
            name,
            f"must hold finite numbers of FP32, but feature {column} of row {row} is {features[row, column]}; "
            f"such values: {num_values:,}, in {num_rows:,} of {len(features_NF):,} rows; fill what is missing, or "
            "leave such rows out",
        )
    return features_NF


def _scales(features_NF: NDArray[np.float32]) -> FeatureScales:
    means_F, deviations_F = features_NF.mean(axis=0, dtype=np.float64), features_NF.std(axis=0, dtype=np.float64)
    deviations_F[deviations_F == 0] = 1
    return FeatureScales(torch.from_numpy(means_F).float(), torch.from_numpy(deviations_F).float())
