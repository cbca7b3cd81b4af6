"""A training on text that was cleaned: the log tells what was done, and a second one is the same to the bit."""

from pathlib import Path
from typing import Any

import pytest

from builders.trainer import losses, recipe, train_here
from builders.transforms import PROSE, settings_of


def cleaned(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for number in range(12):
        rest = PROSE[: 40 * number]
        (folder / f"{number}.txt").write_text(f"{PROSE[number:]}\n\n\n\n\n{rest} {number}@example.org\n")
        (folder / f"again{number}.txt").write_text(f"{PROSE[number:]}\n\n{rest} {number}@example.net\n")
    words = ["NormalizeWhitespace", "MaskPersonalData"]
    lenient = settings_of("FilterQuality", repeatedPhrases="Keep", maxRepeatedCharactersPercent=100)
    transforms = [*map(settings_of, words), lenient, settings_of("RemoveDuplicates", similarityPercent=95)]
    return {
        "type": "Text",
        "text": {"path": str(folder)},
        "transforms": [transform.to_plain() for transform in transforms],
    }


def test_a_training_on_cleaned_text_tells_what_was_done_and_is_repeated_to_the_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = cleaned(tmp_path / "texts")
    told = []
    for storage in (tmp_path / "one", tmp_path / "other"):
        assert train_here(recipe(tmp_path / "texts", data=data), storage) == 0
        told.append([line for line in capsys.readouterr().err.splitlines() if "documents" in line or "texts/" in line])
    assert len(losses(tmp_path / "one")) > 1
    assert losses(tmp_path / "one") == losses(tmp_path / "other")
    assert told[0] == told[1]
    assert any(line.startswith("MaskPersonalData changed 24 of 24 documents: ") for line in told[0])
    assert any(line.startswith("RemoveDuplicates changed 0 of 24 documents, dropped ") for line in told[0])
    assert not any("@example" in line for line in told[0])
