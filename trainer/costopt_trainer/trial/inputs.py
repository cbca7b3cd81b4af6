"""A sample that is no text, as a model wants it.

image_of    a file with an image, or an array -> float32 (1, C, H, W)
row_of      numbers between commas -> float32 (1, F)
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costopt.hostile import Hostile, read_file
from costopt_trainer.data.files.extra import library
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.models.shape import ModelShape

MAX_IMAGE_BYTES = 2**26
"""64 MiB, as of training images."""
_MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's word for them."""


def image_of(path: Path, shape: ModelShape) -> Tensor:
    """The image in a file of any format that Pillow reads, made as large as those that the model was trained on; or the
    array (H, W) or (H, W, C) of 8 bits in a `.npy` file, which must be as large. Raises NotRetryable."""
    if shape.image_shape is None:
        raise ValueError("a model that reads images must have an image shape")
    channels, height, width = shape.image_shape
    try:
        content = read_file(path, max_bytes=MAX_IMAGE_BYTES)
    except OSError as error:
        raise _invalid(path, f"must be a file that can be read ({error.strerror})") from error
    except (Hostile, ValueError) as error:
        raise _invalid(path, str(error)) from error
    if path.suffix == ".npy":
        image_HWC = _array(path, content)
    else:
        image_HWC = _decoded(path, content, channels, (width, height))
    if image_HWC.shape != (height, width, channels):
        own = "x".join(map(str, image_HWC.shape))
        raise _invalid(path, f"must be an image of {height}x{width}x{channels} (H, W, C), not {own}")
    image_CHW = torch.from_numpy(np.array(image_HWC)).permute(2, 0, 1).contiguous()
    return image_CHW.float().div(127.5).sub(1)[None]


def row_of(text: str, shape: ModelShape) -> Tensor:
    """The features of a row, as in the file that the model was trained on. Raises NotRetryable."""
    wanted = shape.num_features
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise NotRetryable("InvalidData", "the input must be numbers between commas, such as 5.1,3.5,1.4") from error
    if len(numbers) != wanted or not all(map(math.isfinite, numbers)):
        raise NotRetryable("InvalidData", f"the input must be {wanted} finite numbers, one for each feature")
    return torch.tensor([numbers], dtype=torch.float32)


def _array(path: Path, content: bytes) -> NDArray[np.uint8]:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _invalid(path, f"must be a whole .npy file without pickles ({first_line(error)})") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise _invalid(path, "must hold an array of 8 bits without sign (uint8), (H, W) or (H, W, C)")
    return array if array.ndim == 3 else array[..., np.newaxis]


def _decoded(path: Path, content: bytes, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    module: Any = library("PIL.Image", str(path))
    if channels not in _MODES:
        raise _invalid(path, f"must be a .npy file, for an image file has no {channels} channels")
    try:
        with module.open(io.BytesIO(content)) as image:
            upright = library("PIL.ImageOps", str(path)).exif_transpose(image).convert(_MODES[channels])
            fitting = upright if upright.size == size else upright.resize(size, module.Resampling.BILINEAR)
            pixels = np.asarray(fitting, dtype=np.uint8)
    except NotRetryable:
        raise
    except Exception as error:
        # Each of Pillow's decoders has errors of its own.
        raise _invalid(path, f"must be an image that can be decoded, but is not ({type(error).__name__})") from error
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def _invalid(path: Path, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"{path} {demand}")
