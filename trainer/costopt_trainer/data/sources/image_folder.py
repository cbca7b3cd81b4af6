"""Labelled images in folders, one for each class, decoded once by the library Pillow (see pixels.py).

All files are read and hashed at each start, in the order of their hashed paths. Classes are the names of the folders,
in sorted order.
"""

import contextlib
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costopt.schema.data import ImageFolderData, SourceSettings
from costopt.schema.data_report import MOST_SHOWN, Counted, ImagesReport
from costopt_trainer.data.counted import of_classes, printable
from costopt_trainer.data.files.extra import library
from costopt_trainer.data.files.found import DataFile, find_files
from costopt_trainer.data.files.places import told
from costopt_trainer.data.pixels import Decoded, open_pixels
from costopt_trainer.data.skipping import Skipping
from costopt_trainer.data.sources.image_file import image_samples
from costopt_trainer.data.training_data import TrainingData
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_FILE_BYTES = 2**26
"""64 MiB: one image is in memory whole, packed and decoded."""
SAMPLE_IMAGES = 200
"""Decoded of a sample."""
AT_ONCE = 64
"""Images in memory while all are decoded."""
MODES = {"RGB": "RGB", "Gray": "L"}
"""`color` -> Pillow's word for it."""

FORMAT_VERSION = 1
"""Part of the key: raise it if the same files and settings give other pixels."""


class ImageFolder:
    """A source of samples: the images below a folder, of which the last are held out after shuffling (at least one)."""

    def __init__(self, settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None) -> None:
        """Find the files. Raises NotRetryable("InvalidData") with a sentence."""
        own = settings.image_folder
        if own is None:
            raise ValueError("data of type ImageFolder must have imageFolder settings")
        self._settings, self._percent, self._cache_dir = own, settings.validation_percent, cache_dir
        self._name = told("data.imageFolder.path", [own.path])
        self._files = find_files(
            "data.imageFolder.path", [own.path], _is_image, own_folder=own_folder, cache_dir=cache_dir
        )
        if self._files and self._files[0].is_named:
            raise _invalid(self._name, "must be a folder that holds one folder for each class, not a file")
        self._class_names = tuple(sorted({_class_of(file) for file in self._files} - {""}))
        if len(self._class_names) < 2:
            there = f"{len(self._class_names)} with images in it"
            raise _invalid(self._name, f"must hold one folder for each of at least 2 classes, but has {there}")
        library("PIL.Image", self._name)

    def samples(self) -> TrainingData:
        """The images, split. They are decoded now, unless that is done."""
        if self._cache_dir is None:
            raise ValueError("images need a folder for what is decoded")
        skipping = Skipping(self._settings, self._name)
        pixels = open_pixels(
            self._key(),
            partial(self._decoded, skipping, self._files),
            lambda: skipping.notes,
            self._cache_dir,
            len(self._files),
        )
        names = hashlib.sha256(json.dumps(self._class_names).encode()).hexdigest()[:16]
        if len(pixels.classes_N) < 2:
            raise _invalid(self._name, "must hold at least 2 images, one to train on and one to hold out, but holds 1")
        return image_samples(
            pixels.images_NHWC,
            pixels.classes_N,
            self._percent,
            fingerprint=f"{pixels.digest}-{names}",
            class_names=self._class_names,
            notes=pixels.notes,
        )

    def report(self, *, sample: bool) -> ImagesReport:
        """What is there. Of a `sample` the first images are decoded, and nothing is kept."""
        files, classes = self._files, self._class_names
        numbers = {name: number for number, name in enumerate(classes)}
        labels_N = np.array([numbers.get(_class_of(file), -1) for file in files], dtype=np.int64)
        placed_N = np.flatnonzero(labels_N >= 0)
        if sample:
            files = files[:SAMPLE_IMAGES]
            skipping = Skipping(self._settings, self._name)
            with phase("ReadingData") as pieces:
                shapes = [image.shape for image, _ in self._decoded(skipping, files) if pieces.goes_on()]
            shape, notes, num_images = shapes[0], skipping.notes, len(placed_N)
            held_out = max(1, num_images * self._percent // 100)
            split = num_images - held_out, held_out
        else:
            data = self.samples()
            assert data.image_shape is not None  # noqa: S101  of images
            shape, notes = (*data.image_shape[1:], data.image_shape[0]), data.notes
            split = data.num_train_samples, data.num_validation_samples
            num_images = sum(split)
        return ImagesReport(
            source=printable(self._name),
            notes=list(map(printable, notes)),
            sampled=sample,
            images=num_images,
            num_classes=len(classes),
            classes=of_classes(labels_N[placed_N], classes, [self._files[number].name for number in placed_N]),
            sizes=_sizes(files),
            shape="x".join(map(str, shape)),
            train_images=split[0],
            validation_images=split[1],
        )

    def _key(self) -> str:
        """Hash of all files, their places, and what changes pixels."""
        settings = self._settings.model_copy(update={"path": ""}).to_plain()
        digest = hashlib.sha256(json.dumps([FORMAT_VERSION, settings], sort_keys=True).encode())
        with phase("ReadingData") as pieces, ThreadPoolExecutor(_threads()) as pool:
            for file, sum_ in zip(self._files, pool.map(_sum_of, self._files), strict=True):
                digest.update(json.dumps([file.relative, sum_]).encode())
                pieces.done()
        return digest.hexdigest()

    def _decoded(self, skipping: Skipping, all_files: Sequence[DataFile]) -> Iterator[Decoded]:
        """All images in these files that can be used, of one size."""
        numbers = {name: number for number, name in enumerate(self._class_names)}
        first: tuple[str, tuple[int, ...]] | None = None
        with ThreadPoolExecutor(_threads()) as pool:
            for start in range(0, len(all_files), AT_ONCE):
                files = all_files[start : start + AT_ONCE]
                for file, image in zip(files, pool.map(partial(_decode, settings=self._settings), files), strict=True):
                    if isinstance(image, str):
                        skipping.bad(f"{file.name} {image}")
                        continue
                    first = first or (file.name, image.shape)
                    if image.shape != first[1]:
                        own, other = _size(image.shape), _size(first[1])
                        what = f"must have {other} pixels as {first[0]}, not {own}, unless height and width are set"
                        skipping.bad(f"{file.name} {what}")
                        continue
                    skipping.good()
                    yield image, numbers[_class_of(file)]
        skipping.end()
        if first is None:
            raise _invalid(self._name, f"must hold images, but none of {len(all_files)} files can be used")


def _decode(file: DataFile, settings: ImageFolderData) -> NDArray[np.uint8] | str:
    """The image (H, W, C), or what would be right."""
    if not _class_of(file):
        return "must lie in the folder of its class"
    content = _content(file)
    if not content:
        return "must be an image, but has 0 bytes"
    if len(content) > MAX_FILE_BYTES:
        return f"must be an image of at most {MAX_FILE_BYTES} bytes"
    module: Any = library("PIL.Image", file.name)
    try:
        with module.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                return f"must have 8 bits a channel, but is of Pillow's mode {image.mode}"
            upright = library("PIL.ImageOps", file.name).exif_transpose(image).convert(MODES[settings.color])
            if settings.height is not None:
                upright = upright.resize((settings.width, settings.height), module.Resampling.BILINEAR)
            pixels = np.asarray(upright, dtype=np.uint8)
    except NotRetryable:
        raise
    except Exception as error:  # noqa: BLE001 - each of Pillow's decoders has errors of its own
        return f"must be an image that can be decoded, but is not ({type(error).__name__})"
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def _sizes(files: Sequence[DataFile]) -> list[Counted]:
    """Height x width of the images as they lie, the most frequent first; of what is no image there is none."""
    sizes: Counter[str] = Counter()
    with phase("ReadingData") as pieces:
        for file in files:
            module: Any = library("PIL.Image", file.name)
            # What Pillow makes of a broken file is anybody's guess; whether it can be used is said elsewhere.
            with contextlib.suppress(Exception), file.opened() as stream, module.open(stream) as image:
                sizes[_size((image.height, image.width))] += 1
            pieces.done()
    return [Counted(name=name, count=count) for name, count in sizes.most_common(MOST_SHOWN)]


def _content(file: DataFile) -> bytes:
    with file.opened() as stream:
        return stream.read(MAX_FILE_BYTES + 1)


def _sum_of(file: DataFile) -> str:
    return hashlib.sha256(_content(file)).hexdigest()


def _class_of(file: DataFile) -> str:
    """The name of the first folder below the one that the settings name; empty if there is none."""
    folder, slash, _ = file.relative.partition("/")
    return folder if slash else ""


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _invalid(what: str, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"{what} {demand}")
