"""Labelled images from one `.npz` file, held in memory.

The file is read with pickle refused. Images and labels are put in a fixed shuffled order before the end is held out,
because files are often sorted by class. Pixels become float32 in [-1, 1]: value / 127.5 - 1.

Shape suffixes: N = images in the file, B = images of a batch, C = channels, H = height, W = width.
"""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema.data import DataSettings
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.storages import refuse_what_jobs_write
from costopt_trainer.data.training_data import Batch, TrainingData
from costopt_trainer.errors import NotRetryable


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
        images, labels, self._digest = _load(path, name, own_folder)
        self._images_NHWC = _checked_images(images, name)
        self._labels_N = _checked_labels(labels, len(self._images_NHWC), name)

    def samples(self) -> TrainingData:
        """The images, split."""
        images_NHWC, labels_N = self._images_NHWC, self._labels_N
        order_N = sample_indices(seed=0, position=0, count=len(labels_N), num_samples=len(labels_N))
        num_train = len(order_N) - max(1, len(order_N) * self._validation_percent // 100)
        train = Images(images_NHWC[order_N[:num_train]], labels_N[order_N[:num_train]])
        validation = Images(images_NHWC[order_N[num_train:]], labels_N[order_N[num_train:]])
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


def _load(path: Path, name: str, own_folder: Path | None) -> tuple[NDArray[np.generic], NDArray[np.generic], str]:
    """Images, labels, and the sha256 of the file."""
    try:
        if not path.exists():
            where = "" if path.is_absolute() else f"; a relative path begins at {Path.cwd()}"
            raise _invalid(name, f"must exist on the machine (or in the pod) that trains, but does not{where}")
        refuse_what_jobs_write(path, name, own_folder)
        if not path.is_file():
            raise _invalid(name, "must be an .npz file, not a folder or device")
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            if not zipfile.is_zipfile(stream):
                raise _invalid(name, "must be a whole .npz file as numpy.savez writes it, but is not or is damaged")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                missing = [array for array in ("images", "labels") if array not in arrays.files]
                if missing:
                    raise _invalid(name, f"must hold arrays `images` and `labels`, but lacks {' and '.join(missing)}")
                images, labels = arrays["images"], arrays["labels"]
                for array, content in (("images", images), ("labels", labels)):
                    if not isinstance(content, np.ndarray):  # numpy gives the bytes of a member that is no array
                        raise _invalid(name, f"must hold arrays, but `{array}` is not one")
                return images, labels, digest
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise _invalid(name, f"must be readable by the user that trains, but reading fails: {why}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise _invalid(
            name, f"must be a whole .npz file of plain arrays without pickles, but reading fails: {error}"
        ) from error


def _checked_images(images: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        shape = "x".join(str(extent) for extent in images.shape) or "scalar"
        raise _invalid(name, f"must hold images as uint8 (N, H, W) or (N, H, W, C), not {images.dtype} {shape}")
    if len(images) < 2:
        raise _invalid(name, "must hold at least 2 images, one to train on and one to hold out, but holds 1")
    pixels = images.astype(np.uint8, copy=False)
    return pixels if pixels.ndim == 4 else pixels[..., np.newaxis]


def _checked_labels(labels: NDArray[np.generic], num_images: int, name: str) -> NDArray[np.int64]:
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise _invalid(name, f"must hold labels as whole numbers (N,), not {labels.dtype} of {labels.ndim} dimensions")
    if len(labels) != num_images:
        raise _invalid(name, f"must hold one label per image, but holds {len(labels)} labels for {num_images} images")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest == 0 or highest >= num_images:
        raise _invalid(
            name, f"must hold labels that count up from 0 in at least 2 classes, but they span {lowest} to {highest}"
        )
    return labels.astype(np.int64)


def _invalid(name: str, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"{name} {demand}")
