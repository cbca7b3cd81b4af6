"""Where the pixels of an image are: each pixel of the new image is looked up in the old one.

Flip, Crop     whole pixels
Rotate         between pixels, linearly

All is numpy and one image's own arithmetic, so that an image is the same to the bit in any batch. torchvision's random
transforms would draw from torch's own generator, and once for a whole batch.

Shape suffixes: B = images of a batch, C = channels, H = height, W = width.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema import augmentations as settings_of
from costopt_trainer.data.augmentations.draws import Draws
from costopt_trainer.data.training_data import Batch, TrainingData

BLACK = np.float32(-1)
Places = NDArray[np.int64]


class Flip:
    """Mirrored images."""

    def __init__(self, settings: settings_of.Flip, _data: TrainingData) -> None:
        self._settings = settings

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Images float32 (B, C, H, W), some of them mirrored."""
        images, classes = batch
        rows_BH, columns_BW = _places(len(images), images.shape[2]), _places(len(images), images.shape[3])
        vertical_B1 = draws.happens("vertical", self._settings.vertical_percent, 1)
        horizontal_B1 = draws.happens("horizontal", self._settings.horizontal_percent, 1)
        rows_BH = np.where(vertical_B1, rows_BH[:, ::-1], rows_BH)
        columns_BW = np.where(horizontal_B1, columns_BW[:, ::-1], columns_BW)
        return torch.from_numpy(_looked_up(images.numpy(), rows_BH[:, :, None], columns_BW[:, None, :])), classes


class Crop:
    """Moved images."""

    def __init__(self, settings: settings_of.Crop, _data: TrainingData) -> None:
        self._padding, self._is_black = settings.padding, settings.fill == "Black"

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Images float32 (B, C, H, W), each moved by at most `padding` pixels."""
        images, classes = batch
        count, _, height, width = images.shape
        moved_B2 = draws.whole("moved", 2 * self._padding + 1, 2) - self._padding
        rows_BH1 = (_places(count, height) + moved_B2[:, :1])[:, :, None]
        columns_B1W = (_places(count, width) + moved_B2[:, 1:])[:, None, :]
        return torch.from_numpy(_filled(images.numpy(), rows_BH1, columns_B1W, self._is_black)), classes


class Rotate:
    """Turned images."""

    def __init__(self, settings: settings_of.Rotate, _data: TrainingData) -> None:
        self._degrees, self._is_black = settings.max_degrees, settings.fill == "Black"

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Images float32 (B, C, H, W), each turned about its middle by at most `maxDegrees`."""
        images, classes = batch
        _, _, height, width = images.shape
        angles = [math.radians((2 * unit - 1) * self._degrees) for unit in draws.units("angle", 1)[:, 0].tolist()]
        cos_B11 = np.array([math.cos(angle) for angle in angles])[:, None, None]
        sin_B11 = np.array([math.sin(angle) for angle in angles])[:, None, None]
        down_H1, right_W = (np.arange(height) - (height - 1) / 2)[:, None], np.arange(width) - (width - 1) / 2
        rows_BHW = cos_B11 * down_H1 - sin_B11 * right_W + (height - 1) / 2
        columns_BHW = sin_B11 * down_H1 + cos_B11 * right_W + (width - 1) / 2
        turned = _between(images.numpy(), rows_BHW, columns_BHW, self._is_black)
        return torch.from_numpy(turned), classes


def _places(count: int, length: int) -> Places:
    return np.broadcast_to(np.arange(length), (count, length))


def _looked_up(images_BCHW: NDArray[np.float32], rows: Places, columns: Places) -> NDArray[np.float32]:
    """The pixels at `rows` and `columns`, which together are of shape (B, H, W)."""
    batch_B111 = np.arange(len(images_BCHW))[:, None, None, None]
    channels_C11 = np.arange(images_BCHW.shape[1])[:, None, None]
    return images_BCHW[batch_B111, channels_C11, rows[:, None], columns[:, None]]


def _filled(images_BCHW: NDArray[np.float32], rows: Places, columns: Places, is_black: bool) -> NDArray[np.float32]:
    """The same where places may lie outside: the nearest pixel is there, or black."""
    height, width = images_BCHW.shape[2:]
    found = _looked_up(images_BCHW, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
    if not is_black:
        return found
    inside_BHW = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return np.where(inside_BHW[:, None], found, BLACK)


def _between(
    images_BCHW: NDArray[np.float32], rows_BHW: NDArray[np.float64], columns_BHW: NDArray[np.float64], is_black: bool
) -> NDArray[np.float32]:
    """The mean of the four pixels around each place, each by how near it is."""
    tops, lefts = np.floor(rows_BHW), np.floor(columns_BHW)
    down_B1HW = (rows_BHW - tops).astype(np.float32)[:, None]
    right_B1HW = (columns_BHW - lefts).astype(np.float32)[:, None]
    rows, columns = tops.astype(np.int64), lefts.astype(np.int64)
    corners = [_filled(images_BCHW, rows + a, columns + b, is_black) for a in (0, 1) for b in (0, 1)]
    one = np.float32(1)
    upper = corners[0] * (one - right_B1HW) + corners[1] * right_B1HW
    lower = corners[2] * (one - right_B1HW) + corners[3] * right_B1HW
    return np.clip(upper * (one - down_B1HW) + lower * down_B1HW, BLACK, one)
