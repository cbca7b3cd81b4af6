"""Labelled images from one `.npz` file, held in memory.

The file is read with pickle refused. Images and labels are put in a fixed shuffled order before the end is held out,
because files are often sorted by class. Pixels become float32 in [-1, 1]: value / 127.5 - 1.

Shape suffixes: N = images in the file, S = those of a split, B = those of a batch, C = channels, H = height, W = width.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema.data import SourceSettings
from costopt.schema.data_report import Counted, ImagesReport
from costopt_trainer.data.counted import of_classes, printable
from costopt_trainer.data.files.places import shown
from costopt_trainer.data.sources.npz_file import checked_labels, invalid, load_arrays, split_shuffled
from costopt_trainer.data.training_data import Batch, TrainingData


@dataclass(frozen=True)
class Images:
    """Images with their labels, one split."""

    images_NHWC: NDArray[np.uint8]
    """Of all splits; may be mapped from a file."""
    labels_N: NDArray[np.int64]
    """Likewise."""
    own_S: NDArray[np.int64]
    """The numbers of those in this split."""

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Images `indices` as float32 (B, C, H, W) in [-1, 1], and labels int64 (B,)."""
        numbers = self.own_S[indices]
        images_BCHW = torch.from_numpy(self.images_NHWC[numbers]).permute(0, 3, 1, 2).contiguous()
        return images_BCHW.float().div_(127.5).sub_(1), torch.from_numpy(self.labels_N[numbers])


def image_samples(
    images_NHWC: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    validation_percent: int,
    *,
    fingerprint: str,
    class_names: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> TrainingData:
    """The images, split; `fingerprint` is that of all of them."""
    of_train, of_validation = split_shuffled(len(labels_N), validation_percent)
    _, height, width, channels = images_NHWC.shape
    return TrainingData(
        num_train_samples=len(of_train),
        num_validation_samples=len(of_validation),
        tokens_per_sample=1,
        train_batch=Images(images_NHWC, labels_N, of_train).batch,
        validation_batch=Images(images_NHWC, labels_N, of_validation).batch,
        fingerprint=f"{fingerprint}-{validation_percent}",
        image_shape=(channels, height, width),
        num_classes=int(labels_N.max()) + 1 if class_names is None else len(class_names),
        class_names=class_names,
        notes=notes,
    )


class ImageFile:
    """A source of samples: the images of a file, of which the last are held out after shuffling (at least one)."""

    def __init__(self, settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None) -> None:
        """Read and check the file. Raises NotRetryable("InvalidData") with a sentence that says what it must hold."""
        if settings.images is None:
            raise ValueError("data of type Images must have images settings")
        self._validation_percent = settings.validation_percent
        place = settings.images.path
        self.name = name = f"data.images.path: {shown(place)}"
        (images, labels), self._digest = load_arrays(
            "data.images.path", place, ("images", "labels"), own_folder, cache_dir
        )
        self._images_NHWC = _checked_images(images, name)
        self._labels_N = checked_labels(labels, len(self._images_NHWC), name, "image")

    def samples(self) -> TrainingData:
        """The images, split."""
        return image_samples(self._images_NHWC, self._labels_N, self._validation_percent, fingerprint=self._digest)

    def report(self, *, sample: bool) -> ImagesReport:  # noqa: ARG002 - all of it is in memory already
        """What is there."""
        data = self.samples()
        count, height, width, channels = self._images_NHWC.shape
        return ImagesReport(
            source=printable(self.name),
            images=count,
            num_classes=int(self._labels_N.max()) + 1,
            classes=of_classes(self._labels_N, None),
            sizes=[Counted(name=f"{height}x{width}", count=count)],
            shape=f"{height}x{width}x{channels}",
            train_images=data.num_train_samples,
            validation_images=data.num_validation_samples,
        )


def _checked_images(images: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        shape = "x".join(str(extent) for extent in images.shape) or "scalar"
        raise invalid(name, f"must hold images as uint8 (N, H, W) or (N, H, W, C), not {images.dtype} {shape}")
    if len(images) < 2:
        raise invalid(name, "must hold at least 2 images, one to train on and one to hold out, but holds 1")
    pixels = images.astype(np.uint8, copy=False)
    return pixels if pixels.ndim == 4 else pixels[..., np.newaxis]
