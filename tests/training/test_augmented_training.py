"""Trainings with augmentations: resumed to the same bits, refused with others, and evaluated on samples as they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.augmentations import augmentation
from builders.data import write_images, write_labelled
from builders.trainer import encoder_recipe, image_recipe, losses, recipe, train_here, written
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable


def plain(*augmentations: Any) -> dict[str, Any]:
    return {"augmentations": [one.to_plain() for one in augmentations]}


def text(folder: Path, **more: Any) -> Recipe:
    """A DecoderLM with dropout on lines of numbers, in several epochs."""
    (folder / "a.txt").write_text("".join(f"line {number}\n" for number in range(60)))
    return recipe(folder / "a.txt", data={"type": "Text", "text": {"path": str(folder / "a.txt")}, **more})


def labelled(folder: Path, **more: Any) -> Recipe:
    path = write_labelled(folder / "a.jsonl")
    return encoder_recipe(path, data={"type": "LabelledText", "labelledText": {"path": str(path)}, **more})


def images(folder: Path, **more: Any) -> Recipe:
    path = write_images(folder / "a.npz")
    made = image_recipe(path)
    return Recipe.model_validate({**made.to_plain(), "data": {**made.data.to_plain(), **more}})


KINDS = {
    "text": (text, ("TokenDropout", "SpanCorruption")),
    "labelled text": (labelled, ("Reorder", "InsertWords", "Synonyms", "TokenDropout")),
    "images": (images, ("Mixup", "Flip", "Crop", "Rotate", "Color", "Noise", "Cutout")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_is_resumed_to_the_same_bits_and_with_no_other_augmentations(kind: str, tmp_path: Path) -> None:
    make: Callable[..., Recipe]
    make, words = KINDS[kind]
    chain = [augmentation(word) for word in words]
    settings = make(tmp_path, **plain(*chain))
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=3) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", 8) == written(tmp_path / "parts", 8)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert train_here(make(tmp_path), tmp_path / "other") == 0
    assert losses(tmp_path / "other") != losses(tmp_path / "whole"), "it makes a difference"
    sentence = "the checkpoint of step 8 is of another training: augmentations was "
    with pytest.raises(NotRetryable, match=rf'{sentence}.*"type": "{words[0]}".* and is not set; put that back'):
        train_here(make(tmp_path), tmp_path / "parts")
    with pytest.raises(NotRetryable, match=rf"{sentence}not set and is \["):
        train_here(settings, tmp_path / "other")


def test_settings_that_are_the_defaults_are_no_other_training(tmp_path: Path) -> None:
    assert train_here(text(tmp_path, augmentations=[{"type": "TokenDropout"}]), tmp_path / "run", stop_after=3) == 143
    written_out = {"type": "TokenDropout", "tokenDropout": {"percent": 10}}
    assert train_here(text(tmp_path, augmentations=[written_out]), tmp_path / "run") == 0


def test_the_first_evaluation_is_of_samples_as_they_are(tmp_path: Path) -> None:
    still = {"optimizer": {"learningRate": "1e-30"}}
    results = []
    for name, more in (("plain", {}), ("changed", plain(augmentation("TokenDropout", percent=90)))):
        settings = Recipe.model_validate({**text(tmp_path, **more).to_plain(), **still})
        assert train_here(settings, tmp_path / name) == 0
        results.append(json.loads((tmp_path / name / "progress-0.json").read_text())["results"])
    assert results[0] == results[1]
