"""What choosing samples takes is told apart, where any are chosen."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders.trainer import recipe, text_file, train_here


@pytest.mark.parametrize(
    ("settings", "takes_time"),
    [
        ({}, False),
        ({"order": {"type": "Shuffled"}}, False),
        ({"selection": {"type": "Loss", "keepPercent": 50}}, True),
    ],
)
def test_time_for_choosing_samples_is_told_only_where_they_are_chosen(
    settings: dict[str, Any], takes_time: bool, tmp_path: Path
) -> None:
    text = {"type": "Text", "text": {"path": str(text_file(tmp_path))}}
    assert train_here(recipe(tmp_path, data={**text, **settings}, totalSteps=3), tmp_path / "job") == 0
    last = (tmp_path / "job/metrics.jsonl").read_text().splitlines()[-1]
    assert (json.loads(last)["metered"]["selecting"] > 0) == takes_time
