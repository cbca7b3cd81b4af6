"""Every optimizer in every layout that it fits: the losses of one process, equal bits after a resume, any layout next.

AdamW is in `test_layouts.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders.gangs import Trained, alone, whole_and_its_end
from builders.trainer import losses, recipe, run, text_file, train_here, train_in_gang, without_dropout
from costopt.schema.optimization_rules import OF_WHOLE_PARAMETERS
from costopt.schema.recipe import Recipe
from costopt_trainer.storage.checkpoint_files import read_tensors
from costopt_trainer.training.optimizers import OPTIMIZERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS, SAVED = 6, 4

LAYOUTS: dict[str, dict[str, object]] = {
    "replicas": {},
    "shard": {"shard": 2, "reshardAfterForward": False},
    "tensor": {"tensor": 2},
    "pipeline": {"pipeline": 2},
}
WORDS = [word for word in OPTIMIZERS if word != "AdamW"]
FITTING = [
    (word, layout)
    for word in WORDS
    for layout in LAYOUTS
    if word not in OF_WHOLE_PARAMETERS or layout in ("replicas", "pipeline")
]

TOLERANCES = {"Lion": 1e-3, "Muon": 2e-3, "AdamW8bit": 1e-4}
"""Of losses of about 5.4. Sums are taken in another order: what is near zero changes its sign in a step of Lion's, Muon
rounds to BF16, and 8 bits round to the other side."""


WITH_SGD = {
    "gradientClipValue": "0.001",
    "groups": [{"parameters": ["token_embedding.*"], "learningRateFactor": "3", "weightDecay": "0.5"}],
}
"""Whose steps are as large as gradients are, and so show what is done to these."""


def settings(text: Path, word: str, parallelism: dict[str, object]) -> Recipe:
    model: dict[str, Any] = without_dropout()
    model["decoderLM"]["preset"] = "GPT2"  # whose first and last stage have one matrix together
    return recipe(
        text,
        model=model,
        optimizer={"type": word, **(WITH_SGD if word == "SGD" else {})},
        labelSmoothingPercent=30,
        totalSteps=STEPS,
        ema={"decay": "0.5"},
        evaluation={"everySteps": 2, "maxSamples": 7},
        checkpointing={"everySteps": SAVED},
        parallelism=parallelism,
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("pair")
    text = text_file(folder)
    recipes = {f"{word} {layout}": settings(text, word, LAYOUTS[layout]) for word, layout in FITTING}
    codes, errors = train_in_gang(whole_and_its_end(recipes, folder), 2, folder)
    assert codes == [0, 0], errors
    return Trained(folder, recipes, errors)


@pytest.mark.parametrize("word", WORDS)
def test_two_ranks_in_any_layout_have_the_losses_of_one_process(word: str, pair: Trained) -> None:
    names = [f"{word} {layout}" for other, layout in FITTING if other == word]
    expected = pair.losses_of_one_process(names[0])
    assert list(expected) == list(range(1, STEPS + 1))
    for name in names:
        assert pair.losses(name) == pytest.approx(expected, abs=TOLERANCES.get(word, 5e-6)), name
        # The others make whole steps of gradients that are rounding errors, such as those of a key's bias.
        if word == "SGD":
            torch.testing.assert_close(averages(pair, name), averages(pair, f"{names[0]}-alone"), atol=1e-6, rtol=0)
        assert evaluated(pair, name) == pytest.approx(evaluated(pair, f"{names[0]}-alone"), abs=5e-4)


def averages(pair: Trained, name: str) -> dict[str, Tensor]:
    return read_tensors(pair.folder / name / f"checkpoints/step-{STEPS:08d}", "average")


def evaluated(pair: Trained, name: str) -> float:
    return float(json.loads((pair.folder / name / "progress-0.json").read_text())["validationLoss"])


@pytest.mark.parametrize(("word", "layout"), FITTING)
def test_two_ranks_that_are_resumed_end_in_the_same_bits(word: str, layout: str, pair: Trained) -> None:
    assert pair.ends_in_the_same_bits(f"{word} {layout}")


@pytest.mark.parametrize(("word", "layout"), FITTING)
def test_one_process_goes_on_from_the_state_of_two_ranks(word: str, layout: str, pair: Trained, tmp_path: Path) -> None:
    name = f"{word} {layout}"
    goes_on = alone(pair.recipes[name])
    begins_as = run(goes_on, tmp_path, begins_as=str(pair.folder / name)).begins_as
    assert train_here(goes_on, tmp_path, begins_as=begins_as) == 0
    found = {step: float(loss) for step, loss in losses(tmp_path).items()}
    expected = {step: loss for step, loss in pair.losses(name).items() if step > SAVED}
    assert found == pytest.approx(expected, abs=TOLERANCES.get(word, 5e-6))
