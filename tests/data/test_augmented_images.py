"""Images that are moved, turned and coloured otherwise: by how much, and what stays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from builders.augmentations import augmentation, epoch_of, with_augmentations
from builders.data import image_settings
from costopt.schema.augmentations import Augmentation
from costopt_trainer.data import Batch, TrainingData, load_data
from costopt_trainer.data.augmentations.table import augmented


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one channel and of three, of smooth content, wider than high."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        images = np.cumsum(rng.integers(0, 18, (200, 10, 14, channels)), axis=2).astype(np.uint8)
        np.savez(folder / f"{channels}.npz", images=images, labels=np.arange(200) % 5)
    return folder


def shown(folder: Path, *augmentations: Augmentation, channels: int = 3) -> tuple[TrainingData, Batch]:
    """All training images in epoch 0 of seed 0."""
    settings = with_augmentations(image_settings(folder / f"{channels}.npz"), *augmentations)
    data = load_data(settings, context_length=None, cache_dir=folder / "cache")
    numbers = np.arange(data.num_train_samples)
    if data.batch_of_epoch is None:
        return data, data.train_batch(numbers)
    return data, data.batch_of_epoch(numbers, np.zeros_like(numbers), 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", ["horizontal", "vertical"])
def test_about_as_many_images_are_mirrored_as_were_asked_for_and_the_others_stay(
    way: str, channels: int, folder: Path
) -> None:
    other = {"horizontal": "vertical", "vertical": "horizontal"}[way]
    flip = augmentation("Flip", **{f"{way}Percent": 30, f"{other}Percent": 0})
    (_, (plain, _)), (_, (flipped, _)) = shown(folder, channels=channels), shown(folder, flip, channels=channels)
    mirrored = plain.flip(3 if way == "horizontal" else 2)
    are = [torch.equal(one, two) for one, two in zip(flipped, mirrored, strict=True)]
    stay = [torch.equal(one, two) for one, two in zip(flipped, plain, strict=True)]
    assert all(a or b for a, b in zip(are, stay, strict=True))
    assert np.mean(are) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("fill", ["Edge", "Black"])
def test_an_image_is_cut_out_of_a_frame_of_its_edge_or_of_black(fill: str, folder: Path) -> None:
    _, (plain, _) = shown(folder)
    _, (moved, _) = shown(folder, augmentation("Crop", padding=2, fill=fill))
    frame = {"mode": "edge"} if fill == "Edge" else {"mode": "constant", "constant_values": -1}
    framed = torch.from_numpy(np.pad(plain.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), **frame))  # type: ignore[call-overload]
    found = dict.fromkeys(np.ndindex(5, 5), 0)
    for image, whole in zip(moved, framed, strict=True):
        places = [at for at in found if torch.equal(whole[:, at[0] : at[0] + 10, at[1] : at[1] + 14], image)]
        assert places, "each is a part of its frame"
        found[places[0]] += 1
    assert sum(count > 0 for count in found.values()) > 20, "at any place"


def test_an_image_is_turned_as_far_as_was_asked_for(folder: Path) -> None:
    _, (plain, _) = shown(folder)
    for degrees, most in ((1, 0.1), (180, 2.0)):
        _, (turned, _) = shown(folder, augmentation("Rotate", maxDegrees=degrees))
        assert 0 < (turned - plain).abs().mean() < most
    middle, means = plain[:, :, 4:6, 6:8].mean(dim=(2, 3)), turned[:, :, 4:6, 6:8].mean(dim=(2, 3))
    assert (middle - means).abs().mean() < 0.1, "the middle stays where it is"


def test_a_turn_by_a_right_angle_moves_each_pixel_to_where_it_belongs() -> None:
    from costopt_trainer.data.augmentations.geometry import _between

    image = np.random.default_rng(0).uniform(-1, 1, (1, 2, 5, 5)).astype(np.float32)
    down, right = np.meshgrid(np.arange(5.0) - 2, np.arange(5.0) - 2, indexing="ij")
    turned = _between(image, (-right + 2)[None], (down + 2)[None], False)
    assert np.allclose(turned, np.rot90(image, k=-1, axes=(2, 3)), atol=1e-6)


def test_a_turned_image_is_black_where_nothing_of_it_is(folder: Path) -> None:
    for fill, are_black in (("Black", True), ("Edge", False)):
        _, (turned, _) = shown(folder, augmentation("Rotate", maxDegrees=180, fill=fill))
        corners = turned[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert ((corners == -1).float().mean() > 0.5).item() == are_black


def test_each_image_gets_its_own_brightness_contrast_and_saturation(folder: Path) -> None:
    _, (plain, _) = shown(folder)
    nothing = {"brightnessPercent": 0, "contrastPercent": 0, "saturationPercent": 0}
    before = (plain + 1) / 2
    for setting in nothing:
        _, (changed, _) = shown(folder, augmentation("Color", **{**nothing, setting: 40}))
        after = (changed + 1) / 2
        if setting == "brightnessPercent":
            middle = torch.zeros_like(before)
        elif setting == "contrastPercent":
            middle = before.mean(dim=(1, 2, 3), keepdim=True).expand_as(before)
        else:
            middle = (
                (before * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).expand_as(before)
            )
        inside = (after > 1e-4) & (after < 1 - 1e-4) & ((before - middle).abs() > 0.1)
        factors = (after - middle) / (before - middle)
        of_image = [factor[is_in] for factor, is_in in zip(factors, inside, strict=True) if is_in.sum() > 3]
        assert len(of_image) > 50
        assert max(float(one.max() - one.min()) for one in of_image) < 0.01, "one factor for an image"
        own = torch.stack([one.mean() for one in of_image])
        assert 0.59 < own.min() < 0.7
        assert 1.3 < own.max() < 1.41


def test_an_image_of_one_channel_has_no_colour_to_change(folder: Path) -> None:
    only = {"brightnessPercent": 0, "contrastPercent": 0, "saturationPercent": 100}
    (_, (plain, _)), (_, (same, _)) = (
        shown(folder, channels=1),
        shown(folder, augmentation("Color", **only), channels=1),
    )
    assert torch.allclose(plain, same, atol=1e-6)
    _, (changed, _) = shown(folder, augmentation("Color"), channels=1)
    assert (changed - plain).abs().mean() > 0.01


def test_noise_has_the_deviation_that_was_asked_for(folder: Path) -> None:
    _, (plain, _) = shown(folder)
    _, (noisy, _) = shown(folder, augmentation("Noise", percent=5))
    inside = (plain.abs() < 0.5) & (noisy.abs() < 1)
    difference = (noisy - plain)[inside]
    assert difference.std() == pytest.approx(0.1, rel=0.03)
    assert difference.mean() == pytest.approx(0, abs=0.002)


def test_a_square_is_cut_out_of_as_many_images_as_were_asked_for(folder: Path) -> None:
    _, (plain, _) = shown(folder)
    _, (cut, _) = shown(folder, augmentation("Cutout", sidePercent=50, samplesPercent=60))
    changed = ((cut != plain) | (cut == 0)).all(dim=1)
    assert torch.equal(cut[~changed[:, None].expand_as(cut)], plain[~changed[:, None].expand_as(cut)])
    sizes = changed.sum(dim=(1, 2))
    assert (sizes > 0).float().mean() == pytest.approx(0.6, abs=0.1)
    assert sizes.max() == 25
    assert (cut[changed[:, None].expand_as(cut)] == 0).all()
    assert len({tuple(torch.nonzero(one)[0].tolist()) for one in changed if one.any()}) > 20, "at any place"


def test_an_image_is_mixed_with_another_training_image_and_keeps_the_larger_share_mostly(folder: Path) -> None:
    data, (plain, classes) = shown(folder, channels=1)
    _, (mixed, same) = shown(folder, augmentation("Mixup", alphaPercent=100), channels=1)
    assert torch.equal(same, classes)
    every = plain.flatten(1).double()
    shares = []
    for image, own in zip(mixed.flatten(1).double(), every, strict=True):
        away = every - own
        weights = ((image - own) * away).sum(1) / away.square().sum(1).clamp(min=1e-12)
        left = (image - own - weights[:, None] * away).abs().amax(1)
        assert left.min() < 1e-5, "it lies between itself and one of the training images"
        shares.append(1 - float(weights[left.argmin()]))
    assert np.mean(shares) == pytest.approx(2 / 3, abs=0.05), "the mean of Beta(2, 1)"
    assert data.num_train_samples == 180


def test_the_loss_of_mixed_images_is_in_expectation_that_of_mixed_classes() -> None:
    count, alpha = 20_000, 0.4
    values, classes = torch.rand(count, 1, 1, 1, generator=torch.manual_seed(0)) * 2 - 1, torch.arange(count) % 2

    def batch(numbers: NDArray[np.int64]) -> Batch:
        return values[numbers], classes[numbers]

    def loss(of_image: NDArray[np.float64], of_class: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.exp(2 * of_image * (2 * of_class - 1))  # neither linear nor the same for both

    data = TrainingData(count, 1, 1, train_batch=batch, validation_batch=batch, fingerprint="")
    mixed, same = epoch_of(augmented(data, [augmentation("Mixup", alphaPercent=40)]))
    rng = np.random.default_rng(0)
    one, other, weights = *rng.integers(0, count, (2, 400_000)), rng.beta(alpha, alpha, 400_000)
    images = weights * values.numpy()[one, 0, 0, 0] + (1 - weights) * values.numpy()[other, 0, 0, 0]
    theirs = weights * loss(images, one % 2) + (1 - weights) * loss(images, other % 2)
    assert loss(mixed.double().numpy()[:, 0, 0, 0], same.numpy()).mean() == pytest.approx(theirs.mean(), rel=0.03)
