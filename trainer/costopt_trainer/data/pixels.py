"""Pixels on disk: images decoded once per content and settings, then memory-mapped by every rank.

    <cache_dir>/<key>.images/pixels.bin    uint8 (N, H, W, C)
                             classes.bin   little-endian int32 (N,)
                             images.json   sizes, hash, and what was left out: what the folder should hold

The folder is made under a lock and a temporary name, and renamed when complete; each load checks its hash. One that is
damaged, a link, or of another key is made again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costopt.files import sync_folder, write_atomically
from costopt.hostile import Hostile, open_file, read_json, real_folder
from costopt_trainer.data.made_once import Kept, made_once
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove

PIXELS_FILE, CLASSES_FILE, CONTENTS_FILE = "pixels.bin", "classes.bin", "images.json"


@dataclass(frozen=True)
class Pixels:
    """Decoded images."""

    images_NHWC: NDArray[np.uint8]
    """Mapped from the file."""
    classes_N: NDArray[np.int64]
    digest: str
    """sha256 of images and classes."""
    notes: tuple[str, ...]
    """Lines for the log about what was left out."""


Decoded = tuple[NDArray[np.uint8], int]
"""An image (H, W, C), of one shape for all, and its class."""


def open_pixels(
    key: str, decode: Callable[[], Iterator[Decoded]], notes: Callable[[], tuple[str, ...]], cache_dir: Path, count: int
) -> Pixels:
    """The images of `key`, from the cache or decoded now; safe for many processes at once.

    `notes` is asked when all is decoded; `count` images are expected. Raises what `decode` raises, and
    NotRetryable("InvalidData") if the cache folder cannot be written.
    """
    folder = cache_dir / f"{key[:32]}.images"
    partial = folder.with_name(f".{folder.name}.partial")
    return made_once(
        Kept(
            folder,
            of=f"{count:,} images",
            name="cache of images",
            room_for="decoded images",
            read=lambda: _read(folder, key),
            make=lambda: _make(folder, partial, key, decode, notes),
            phase="ReadingData",
            made=lambda: _size(partial / CLASSES_FILE),
            num_bytes=4 * count,
        )
    )


def _make(
    folder: Path, partial: Path, key: str, decode: Callable[[], Iterator[Decoded]], notes: Callable[[], tuple[str, ...]]
) -> None:
    """Decode all images into `folder`, replacing it; the caller holds its lock."""
    try:
        remove(partial)
        partial.mkdir()
        shape: tuple[int, ...] = ()
        count, digest = 0, hashlib.sha256()
        with (
            (partial / PIXELS_FILE).open("xb") as pixels,
            (partial / CLASSES_FILE).open("xb", buffering=0) as classes,
            phase("ReadingData", alone=True) as pieces,
        ):
            for image_HWC, number in decode():
                shape, count = image_HWC.shape, count + 1
                for stream, content in ((pixels, image_HWC.tobytes()), (classes, np.array(number, "<i4").tobytes())):
                    digest.update(content)
                    stream.write(content)
                pieces.done()
            for stream in (pixels, classes):
                stream.flush()
                os.fsync(stream.fileno())
        contents = {"key": key, "shape": [count, *shape], "sha256": digest.hexdigest(), "notes": notes()}
        write_atomically(partial / CONTENTS_FILE, (json.dumps(contents, indent=2) + "\n").encode())
        remove(folder)
        partial.replace(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(partial)
        raise
    sync_folder(folder.parent)


def _read(folder: Path, key: str) -> Pixels | None:
    """The images in `folder`, or None if it is missing, not what `images.json` says, or of another key."""
    try:
        real_folder(folder.parent)
        real_folder(folder)
        contents: dict[str, Any] = read_json(folder / CONTENTS_FILE)
        count, height, width, channels = shape = tuple(contents["shape"])
        if contents["key"] != key or any(type(extent) is not int or extent < 1 for extent in shape):
            return None
        num_bytes = height * width * channels
        if _size(folder / PIXELS_FILE) != count * num_bytes or _size(folder / CLASSES_FILE) != 4 * count:
            return None
        images_NHWC: NDArray[np.uint8] = np.memmap(folder / PIXELS_FILE, dtype=np.uint8, mode="r", shape=shape)
        with open_file(folder / CLASSES_FILE) as stream:
            classes_N = np.frombuffer(stream.read(), dtype="<i4")
        digest = hashlib.sha256()
        with phase("ReadingData") as pieces:
            for image, number in zip(images_NHWC, classes_N, strict=True):
                digest.update(image.tobytes())
                digest.update(number.tobytes())
                pieces.done()
        if digest.hexdigest() != contents["sha256"] or not all(isinstance(note, str) for note in contents["notes"]):
            return None
        return Pixels(images_NHWC, classes_N.astype(np.int64), contents["sha256"], tuple(contents["notes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _size(path: Path) -> int | None:
    try:
        with open_file(path) as stream:
            return stream.seek(0, os.SEEK_END)
    except (OSError, Hostile):
        return None
