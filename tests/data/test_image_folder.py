"""Images in folders: decoded once, each in the class of its folder, whatever format it lies in."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from builders.data import folder_settings, image_settings, refused_in_one_sentence, write_image_folder
from costopt.schema.data import DataSettings
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.files.local import reading_order
from costopt_trainer.errors import NotRetryable

CHANNEL_OF = {"red": 0, "green": 1, "blue": 2}


def loaded(settings: DataSettings, folder: Path) -> TrainingData:
    return load_data(settings, context_length=None, cache_dir=folder / "cache")


def all_samples(data: TrainingData) -> list[tuple[np.ndarray, int]]:
    """Pixels (C, H, W) as they were in the files, and class, of both splits."""
    samples = []
    for batch, count in (
        (data.train_batch, data.num_train_samples),
        (data.validation_batch, data.num_validation_samples),
    ):
        images, classes = batch(np.arange(count))
        pixels = ((images.numpy() + 1) * 127.5).round().astype(np.uint8)
        samples += list(zip(pixels, classes.tolist(), strict=True))
    return samples


def cached(folder: Path) -> Path:
    [found] = (folder / "cache").glob("*.images")
    return found


def test_each_image_has_its_pixels_and_the_class_of_its_folder(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images", ends=(".png", ".bmp", ".ppm", ".PNG"))
    data = loaded(folder_settings(folder, validation_percent=25), tmp_path)
    assert (data.num_train_samples, data.num_validation_samples) == (18, 6)
    assert (data.image_shape, data.num_classes, data.class_names) == ((3, 6, 6), 3, ("blue", "green", "red"))
    written = {np.asarray(Image.open(path)).tobytes(): path.parent.name for path in folder.rglob("*.*")}
    samples = all_samples(data)
    assert len(samples) == len(written) == 24
    for pixels, number in samples:
        assert data.class_names is not None
        assert written[pixels.transpose(1, 2, 0).tobytes()] == data.class_names[number]


def test_images_in_folders_and_in_an_array_become_the_same_batches(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images")
    data = loaded(folder_settings(folder), tmp_path)
    pixels = np.fromfile(cached(tmp_path) / "pixels.bin", dtype=np.uint8).reshape(24, 6, 6, 3)
    labels = np.fromfile(cached(tmp_path) / "classes.bin", dtype="<i4")
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
    same = loaded(image_settings(tmp_path / "a.npz"), tmp_path)
    for batch, other in ((data.train_batch, same.train_batch), (data.validation_batch, same.validation_batch)):
        for one, another in zip(batch(np.arange(2)), other(np.arange(2)), strict=True):
            assert (one == another).all()


def test_images_are_scaled_and_made_grey_as_asked_for(tmp_path: Path) -> None:
    for name, size in (("a/1.jpg", (20, 10)), ("b/2.png", (7, 30)), ("b/deep/3.gif", (9, 9))):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 0, 0)).save(tmp_path / "images" / name)
    data = loaded(folder_settings(tmp_path / "images", height=5, width=8, color="Gray"), tmp_path)
    assert (data.image_shape, data.num_classes) == ((1, 5, 8), 2)
    for pixels, _ in all_samples(data):
        assert abs(pixels.astype(int) - round(200 * 0.299)).max() <= 3


def test_images_are_decoded_once_and_again_if_something_changes(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images")
    settings = folder_settings(folder)
    first = loaded(settings, tmp_path)
    made = (cached(tmp_path) / "pixels.bin").stat().st_mtime_ns
    assert loaded(settings, tmp_path).fingerprint == first.fingerprint
    assert (cached(tmp_path) / "pixels.bin").stat().st_mtime_ns == made
    (folder / "red").rename(folder / "rot")
    assert loaded(settings, tmp_path).fingerprint != first.fingerprint
    (folder / "rot").rename(folder / "red")
    assert loaded(folder_settings(folder, height=6, width=6), tmp_path).fingerprint == first.fingerprint, "same pixels"
    assert loaded(folder_settings(folder, height=5, width=6), tmp_path).fingerprint != first.fingerprint


def test_a_folder_that_gets_another_name_moves_its_images_to_that_class(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (4, 4), value).save(tmp_path / f"images/{name}/1.png")
    settings = folder_settings(tmp_path / "images", color="Gray")

    def is_first(name: str) -> bool:
        return reading_order(f"{name}/1.png") < reading_order("b/1.png")

    # One under which the files come in the same order as before, so that nothing but the class is another.
    other = next(name for name in map("z{}".format, range(99)) if is_first(name) == is_first("a"))
    for dark in ("a", other):
        data = loaded(settings, tmp_path)
        assert data.class_names == tuple(sorted([dark, "b"]))
        for pixels, number in all_samples(data):
            assert data.class_names[number] == (dark if pixels.max() == 10 else "b")
        if dark == "a":
            (tmp_path / "images/a").rename(tmp_path / "images" / other)


@pytest.mark.parametrize("name", ["pixels.bin", "classes.bin", "images.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_cache_of_images_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    settings = folder_settings(write_image_folder(tmp_path / "images"))
    before = loaded(settings, tmp_path)
    path = cached(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()
    if damage != "gone":
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    after = loaded(settings, tmp_path)
    assert after.fingerprint == before.fingerprint
    for one, other in zip(all_samples(before), all_samples(after), strict=True):
        assert one[1] == other[1]
        assert (one[0] == other[0]).all()


def test_images_that_are_bad_are_left_out_if_asked_for(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images")
    (folder / "red/bad.png").write_bytes((folder / "red/0.png").read_bytes()[:60])
    Image.new("RGB", (9, 9)).save(folder / "blue/large.png")
    data = loaded(folder_settings(folder, onBadSample="Skip", maxBadPercent=10, validation_percent=25), tmp_path)
    assert len(all_samples(data)) == 24
    assert data.notes[0].startswith("2 of 26 samples are bad and left out; the first: ")
    again = loaded(folder_settings(folder, onBadSample="Skip", maxBadPercent=10, validation_percent=25), tmp_path)
    assert again.notes == data.notes, "told at each start"
    with pytest.raises(NotRetryable, match=r"at most 7 percent of bad samples .*, but 2 of 26 are bad"):
        loaded(folder_settings(folder, onBadSample="Skip", maxBadPercent=7), tmp_path)


def changed(change: Callable[[Path], object], **fields: Any) -> Callable[[Path], DataSettings]:
    def make(folder: Path) -> DataSettings:
        change(write_image_folder(folder / "images"))
        return folder_settings(folder / "images", **fields)

    return make


MISTAKES: list[tuple[str, Callable[[Path], DataSettings], str]] = [
    ("missing", lambda folder: folder_settings(folder / "none"), "none must exist on the machine"),
    ("no image", folder_settings, "at least 2 classes, but has 0 with images in it"),
    (
        "text as an image",
        changed(lambda folder: (folder / "red/x.png").write_text("hello")),
        r"red/x.png must be an image that can be decoded, but is not \(UnidentifiedImageError\)",
    ),
    (
        "cut short",
        changed(lambda folder: (folder / "red/0.png").write_bytes((folder / "red/0.png").read_bytes()[:90])),
        "red/0.png must be an image that can be decoded, but is not",
    ),
    (
        "0 bytes",
        changed(lambda folder: (folder / "red/0.png").write_bytes(b"")),
        "red/0.png must be an image, but has 0",
    ),
    (
        "another size",
        changed(lambda folder: Image.new("RGB", (7, 6)).save(folder / "red/0.png")),
        "must have .* pixels as .*, not .*, unless height and width are set",
    ),
    (
        "without a class",
        changed(lambda folder: (folder / "red/0.png").rename(folder / "0.png")),
        "images/0.png must lie in the folder of its class",
    ),
    (
        "16 bits a channel",
        changed(lambda folder: Image.fromarray(np.ones((6, 6), np.uint16)).save(folder / "red/0.png")),
        "red/0.png must have 8 bits a channel, but is of Pillow's mode I;16",
    ),
    (
        "packed and cut short",
        changed(lambda folder: (folder / "red/x.png.gz").write_bytes(gzip.compress(b"x" * 999)[:-5])),
        "red/x.png.gz must be a whole gzip file, but is cut short or damaged",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_in_image_folders_is_answered_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], DataSettings], sentence: str
) -> None:
    refused_in_one_sentence(make(tmp_path), sentence, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").glob("*") if path.is_dir()] == [], "nothing half-made"


def test_a_file_is_no_folder_of_images(tmp_path: Path) -> None:
    path = write_image_folder(tmp_path / "images") / "red/0.png"
    refused_in_one_sentence(folder_settings(path), "must be a folder that holds one folder for each class", tmp_path)
