"""Labelled images from one `.npz` file, held in memory.

The file is read with pickle refused. Images and labels are put in a fixed shuffled order before the end is held out,
because files are often sorted by class. Pixels become float32 in [-1, 1]: value / 127.5 - 1.

Shape suffixes: N = images in the file, B = images of a batch, C = channels, H = height, W = width.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema.data import DataSettings
from costopt_trainer.data.sources.npz_file import checked_labels, invalid, load_arrays, split_shuffled
from costopt_trainer.data.training_data import Batch, TrainingData


@dataclass(frozen=True)
class Images:
    """Images with their labels, one split of a file."""

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Images `indices` as float32 (B, C, H, W) in [-1, 1], and labels int64 (B,)."""
        images_BCHW = torch.from_numpy(self.images_NHWC[indices]).permute(0, 3, 1, 2).contiguous()
        return images_BCHW.float().div_(127.5).sub_(1), torch.from_numpy(self.labels_N[indices])


class ImageFile:
    """A source of samples: the images of a file, of which the last are held out after shuffling (at least one)."""

    def __init__(self, settings: DataSettings, own_folder: Path | None = None) -> None:
        """Read and check the file. Raises NotRetryable("InvalidData") with a sentence that says what it must hold."""
        if settings.images is None:
            raise ValueError("data of type Images must have images settings")
        self._validation_percent = settings.validation_percent
        path = Path(settings.images.path)
        name = f"data.images.path: {path}"
        (images, labels), self._digest = load_arrays(path, name, ("images", "labels"), own_folder)
        self._images_NHWC = _checked_images(images, name)
        self._labels_N = checked_labels(labels, len(self._images_NHWC), name, "image")

    def samples(self) -> TrainingData:
        """The images, split."""
        images_NHWC, labels_N = self._images_NHWC, self._labels_N
        of_train, of_validation = split_shuffled(len(labels_N), self._validation_percent)
        train = Images(images_NHWC[of_train], labels_N[of_train])
        validation = Images(images_NHWC[of_validation], labels_N[of_validation])
        _, height, width, channels = images_NHWC.shape
        return TrainingData(
            num_train_samples=len(train.labels_N),
            num_validation_samples=len(validation.labels_N),
            tokens_per_sample=1,
            train_batch=train.batch,
            validation_batch=validation.batch,
            fingerprint=f"{self._digest}-{self._validation_percent}",
            image_shape=(channels, height, width),
            num_classes=int(labels_N.max()) + 1,
        )


def _checked_images(images: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        shape = "x".join(str(extent) for extent in images.shape) or "scalar"
        raise invalid(name, f"must hold images as uint8 (N, H, W) or (N, H, W, C), not {images.dtype} {shape}")
    if len(images) < 2:
        raise invalid(name, "must hold at least 2 images, one to train on and one to hold out, but holds 1")
    pixels = images.astype(np.uint8, copy=False)
    return pixels if pixels.ndim == 4 else pixels[..., np.newaxis]
