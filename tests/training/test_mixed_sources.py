"""Trainings on several sources: resumed to the same bits, their figures told, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders.trainer import encoder_recipe, losses, recipe, text_file, train_here, written
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable


def mixed(folder: Path, plain: Recipe, first: dict[str, Any] | None = None, **data: Any) -> Recipe:
    """The same recipe on two texts."""
    sources = [
        {"name": name, "text": {"path": str(text_file(folder, seed=seed, words=900 * (seed + 1)))}}
        for seed, name in enumerate(("small", "large"))
    ]
    mixture = {
        "sources": [{**sources[0], **({"weight": 3, "endWeight": 1} if first is None else first)}, sources[1]],
        **data.pop("more", {}),
    }
    return Recipe.model_validate({**plain.to_plain(), "data": {"type": "Mixture", "mixture": mixture, **data}})


def last_line(storage: Path) -> Any:
    return json.loads((storage / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("kind", ["changing", "stages", "masked", "selected"])
def test_a_training_is_resumed_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    text = text_file(tmp_path)
    settings = {
        "changing": lambda: mixed(tmp_path, recipe(text), tokenizer={"type": "BPE", "vocabularySize": 300}),
        "stages": lambda: mixed(
            tmp_path,
            recipe(text),
            {},
            more={"stages": [{"fromPercent": 50, "weights": {"small": 0, "large": 1}}]},
            augmentations=[{"type": "TokenDropout"}],
        ),
        "masked": lambda: mixed(tmp_path, encoder_recipe(text)),
        "selected": lambda: mixed(tmp_path, recipe(text), selection={"type": "Random", "keepPercent": 50}),
    }[kind]()
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=3) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", 8) == written(tmp_path / "parts", 8)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_each_source_has_a_loss_and_what_was_seen_of_it(tmp_path: Path) -> None:
    evaluation = {"everySteps": 4, "maxSamples": 100}
    settings = mixed(tmp_path, recipe(text_file(tmp_path), evaluation=evaluation))
    assert train_here(settings, tmp_path / "job") == 0
    told = last_line(tmp_path / "job")
    results = {name: float(figure) for name, figure in told["results"].items()}
    each = [results[f"validationLossNatsPerToken.{name}"] for name in ("small", "large")]
    assert min(each) < results["validationLossNatsPerToken"] < max(each)
    tokens = [results[f"tokensSeen.{name}"] for name in ("small", "large")]
    assert sum(tokens) == told["samplesConsumed"] * 16
    # From 3 : 1 to 1 : 1 along 64 samples: 3 / 4 at first, 1 / 2 at last.
    assert tokens[0] / sum(tokens) == pytest.approx(0.64, abs=0.02)
    assert results["epochs.small"] > results["epochs.large"] > 0


def test_other_weights_are_refused_and_named(tmp_path: Path) -> None:
    plain = recipe(text_file(tmp_path))
    assert train_here(mixed(tmp_path, plain), tmp_path / "job", stop_after=3) == EXIT_PREEMPTED
    sentence = r"the checkpoint of step 3 is of another training: mixture\.small\.weight was 3 and is 2"
    with pytest.raises(NotRetryable, match=sentence):
        train_here(mixed(tmp_path, plain, {"weight": 2, "endWeight": 1}), tmp_path / "job")
    longer = Recipe.model_validate({**mixed(tmp_path, plain).to_plain(), "totalSteps": 16})
    with pytest.raises(NotRetryable, match=r"totalSteps times globalBatchSize, .* was 64 and is 128; put that back"):
        train_here(longer, tmp_path / "job")


def test_weights_that_stay_let_a_training_go_on_for_longer(tmp_path: Path) -> None:
    plain = mixed(tmp_path, recipe(text_file(tmp_path)), {"weight": 3})
    assert train_here(plain, tmp_path / "job") == 0
    longer = Recipe.model_validate({**plain.to_plain(), "totalSteps": 10})
    assert train_here(longer, tmp_path / "job") == 0
    assert last_line(tmp_path / "job")["step"] == 10
