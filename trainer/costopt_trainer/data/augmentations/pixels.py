"""What the pixels of an image are; each stays where it is.

Color, Noise    all of them
Cutout          those of a square
Mixup           those of two images

Pixels are in [-1, 1], from black to white.

Shape suffixes: B = images of a batch, C = channels, H = height, W = width.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema import augmentations as settings_of
from costopt_trainer.data.augmentations.draws import Draws
from costopt_trainer.data.training_data import Batch, TrainingData

GREY_OF_RGB = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in how bright a pixel looks (ITU-R BT.601)."""
MIDDLE_GREY = np.float32(0)


class Color:
    """Images of other brightness, contrast and colour, changed in this order."""

    def __init__(self, settings: settings_of.Color, data: TrainingData) -> None:
        self._settings = settings
        self._has_color = data.image_shape is not None and data.image_shape[0] == len(GREY_OF_RGB)

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Images float32 (B, C, H, W) in [-1, 1], and classes as they are."""
        own = self._settings
        images_BCHW = (batch[0].numpy() + np.float32(1)) / np.float32(2)
        if own.brightness_percent:
            images_BCHW = _limited(images_BCHW * _factors(draws, "brightness", own.brightness_percent))
        if own.contrast_percent:
            factors = _factors(draws, "contrast", own.contrast_percent)
            images_BCHW = _limited(_away_from(_means(images_BCHW), images_BCHW, factors))
        if own.saturation_percent and self._has_color:
            red, green, blue = (np.float32(share) * images_BCHW[:, at : at + 1] for at, share in enumerate(GREY_OF_RGB))
            factors = _factors(draws, "saturation", own.saturation_percent)
            images_BCHW = _limited(_away_from(red + green + blue, images_BCHW, factors))
        return torch.from_numpy(images_BCHW * np.float32(2) - np.float32(1)), batch[1]


def _factors(draws: Draws, name: str, percent: int) -> NDArray[np.float32]:
    """One for each image, (B, 1, 1, 1), in 1 +- percent / 100."""
    return (1 + (2 * draws.units(name, 1, 1, 1) - 1) * percent / 100).astype(np.float32)


def _away_from(
    middle: NDArray[np.float32], images_BCHW: NDArray[np.float32], factors: NDArray[np.float32]
) -> NDArray[np.float32]:
    return middle + (images_BCHW - middle) * factors


def _means(images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each image, (B, 1, 1, 1). One by one: the sum over an array of many may be taken in another order."""
    means = np.array([np.ascontiguousarray(image_CHW).mean() for image_CHW in images_BCHW], dtype=np.float32)
    return means[:, None, None, None]


def _limited(images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.clip(images_BCHW, np.float32(0), np.float32(1))


class Noise:
    """Images with noise."""

    def __init__(self, settings: settings_of.Noise, _data: TrainingData) -> None:
        self._deviation = np.float32(2 * settings.percent / 100)

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Images float32 (B, C, H, W) in [-1, 1], and classes as they are."""
        images_BCHW = batch[0].numpy()
        noise_BCHW = draws.normal("noise", *images_BCHW.shape[1:]) * self._deviation
        return torch.from_numpy(np.clip(images_BCHW + noise_BCHW, np.float32(-1), np.float32(1))), batch[1]


class Cutout:
    """Images with a hole."""

    def __init__(self, settings: settings_of.Cutout, _data: TrainingData) -> None:
        self._settings = settings

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Images float32 (B, C, H, W), with a grey square about a pixel that is drawn, and classes as they are."""
        height, width = batch[0].shape[2:]
        side = max(1, round(min(height, width) * self._settings.side_percent / 100))
        rows_BH = _hole(draws.whole("row", height, 1), side, height)
        columns_BW = _hole(draws.whole("column", width, 1), side, width)
        changed_B1 = draws.happens("changed", self._settings.samples_percent, 1)
        hole_BHW = (rows_BH & changed_B1)[:, :, None] & columns_BW[:, None, :]
        return torch.from_numpy(np.where(hole_BHW[:, None], MIDDLE_GREY, batch[0].numpy())), batch[1]


def _hole(middle_B1: NDArray[np.int64], side: int, length: int) -> NDArray[np.bool_]:
    begin_B1 = middle_B1 - side // 2
    places = np.arange(length)
    return (places >= begin_B1) & (places < begin_B1 + side)


class Mixup:
    """Images mixed with another one, of which they keep a share that is drawn from Beta(alpha + 1, alpha).

    Mixup (Zhang et al.) weighs the losses for both classes by shares w and 1 - w, where w is from Beta(alpha, alpha).
    To take each class alone with probability w and 1 - w has the same expectation. The pair may be swapped, so the
    class can be taken to be the first one's; that happens in proportion to w, and Beta(alpha, alpha) in proportion to
    w is Beta(alpha + 1, alpha).
    """

    def __init__(self, settings: settings_of.Mixup, data: TrainingData) -> None:
        self._alpha = settings.alpha_percent / 100
        self._others: Callable[[NDArray[np.int64]], Batch] = data.train_batch
        self._num_samples = data.num_train_samples

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Images float32 (B, C, H, W) in [-1, 1], and classes as they are. The other image is without augmentations."""
        others, _ = self._others(draws.whole("other", self._num_samples))
        seeds = draws.words("share").tolist()
        shares = [np.random.Generator(np.random.Philox(seed)).beta(self._alpha + 1, self._alpha) for seed in seeds]
        kept_B111 = np.array(shares, dtype=np.float32)[:, None, None, None]
        mixed = batch[0].numpy() * kept_B111 + others.numpy() * (np.float32(1) - kept_B111)
        return torch.from_numpy(np.clip(mixed, np.float32(-1), np.float32(1))), batch[1]
