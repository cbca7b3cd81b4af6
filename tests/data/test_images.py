"""Images from an .npz file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from builders.data import image_settings, write_images
from costopt_trainer.data import TrainingData, load_data


def load(path: Path, percent: int = 10) -> TrainingData:
    return load_data(
        image_settings(path, validation_percent=percent), context_length=None, cache_dir=path.parent / "cache"
    )


def test_images_come_as_floats_with_channels_first(tmp_path: Path) -> None:
    images = np.zeros((10, 4, 6, 3), dtype=np.uint8)
    images[:, 1, 2, 0] = 255
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(10) % 2)
    data = load(tmp_path / "a.npz")
    pixels, labels = data.train_batch(np.array([3, 0]))
    assert pixels.shape == (2, 3, 4, 6)
    assert pixels.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert pixels[0, 0, 1, 2] == 1
    assert pixels.sum() == 2 * (1 - (3 * 4 * 6 - 1))
    assert (data.image_shape, data.num_classes, data.tokens_per_sample) == ((3, 4, 6), 2, 1)
    assert data.vocabulary_size is None
    assert data.reference_entropies == {}


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    assert load(write_images(tmp_path / "a.npz", side=8)).image_shape == (1, 8, 8)


def test_the_splits_share_no_image_and_lose_none(tmp_path: Path) -> None:
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=(np.arange(50) // 25).astype(np.uint8))
    data = load(tmp_path / "a.npz", percent=30)
    assert (data.num_train_samples, data.num_validation_samples) == (35, 15)
    train, train_labels = data.train_batch(np.arange(35))
    held_out, held_out_labels = data.validation_batch(np.arange(15))
    numbers = ((torch.cat([train, held_out]).flatten() + 1) * 127.5).round().long()
    assert sorted(numbers.tolist()) == list(range(50))
    assert torch.equal(torch.cat([train_labels, held_out_labels]), numbers // 25)


def test_a_file_sorted_by_class_still_holds_out_every_class(tmp_path: Path) -> None:
    data = load(write_images(tmp_path / "a.npz", count=200, classes=4), percent=20)
    _, labels = data.validation_batch(np.arange(data.num_validation_samples))
    assert set(labels.tolist()) == {0, 1, 2, 3}


def test_at_least_one_image_is_held_out(tmp_path: Path) -> None:
    data = load(write_images(tmp_path / "a.npz", count=5), percent=1)
    assert (data.num_train_samples, data.num_validation_samples) == (4, 1)


@pytest.mark.parametrize("percent", [10, 20])
def test_the_fingerprint_tells_contents_and_splits_apart(tmp_path: Path, percent: int) -> None:
    reference = load(write_images(tmp_path / "a.npz"), percent=10).fingerprint
    same = load(write_images(tmp_path / "b.npz"), percent=percent).fingerprint
    other = load(write_images(tmp_path / "c.npz", count=44), percent=percent).fingerprint
    assert (same == reference) == (percent == 10)
    assert other != reference
