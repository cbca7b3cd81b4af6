"""Models of the Hugging Face library whose tensors are split by their own plan: twenty steps have the losses of one
process, a resume ends in the same bits, and the library loads what was trained.

All with gradient accumulation, and a norm that is clipped in some steps only.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from builders.gangs import Trained, whole_and_its_end
from builders.hugging_face import config_file, model_folder
from builders.trainer import Run, recipe, run, text_file, train_here, train_in_gang
from costopt.schema.parallelism import Parallelism
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.hugging_face.library import library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 20
TOLERANCE = 2e-6
"""As in test_layouts."""
PADDING = 100
"""A token of the text, whose row in an embedding never changes; so is the row of the same number in the second half,
counted from there, but that one must change: it is that of the first byte of the sign below."""
SIGN = "\N{CJK UNIFIED IDEOGRAPH-4E00}"
PLAIN = {"vocab_size": 256, "pad_token_id": PADDING}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", PLAIN),
    "qwen3": ("qwen3", {"vocab_size": 301, "tie_word_embeddings": True, "attention_bias": True}),
    "phi3": ("phi3", {"vocab_size": 256}),
}
"""Tied and not, with biases and without, with norms of heads, with a vocabulary that no two ranks share without a rest,
and with matrices whose outputs are gathered."""
TWO = [*CONFIGS, "adapters"]
CHANGING = ["qwen3", "adapters"]
"""Which change their layout at every stop."""
SHARD: dict[str, Any] = {"shard": 2}
FOUR: dict[str, tuple[str, dict[str, Any]]] = {
    "shard x tensor": ("qwen3", {"shard": 2, "tensor": 2}),
}


def settings(folder: Path, model: dict[str, Any], parallelism: dict[str, Any], **changes: Any) -> Recipe:
    text = folder / "text.txt"
    if not text.exists():
        text.write_text(text_file(folder).read_text().replace("a", SIGN))
    plain = {
        "model": {"type": "HuggingFace", "huggingFace": {"contextLength": 16, **model}},
        "data": {"type": "Text", "text": {"path": str(text)}, "tokenizer": {"type": "Byte"}},
        "optimizer": {"gradientClipNorm": "0.95"},
        "totalSteps": STEPS,
        "evaluation": {"everySteps": STEPS, "maxSamples": 7},
        "checkpointing": {"everySteps": 17},
        "parallelism": parallelism,
    }
    return recipe(text, **(plain | changes))


def trained(recipes: dict[str, Recipe], world_size: int, folder: Path, *before: Run) -> Trained:
    codes, errors = train_in_gang([*before, *whole_and_its_end(recipes, folder)], world_size, folder)
    assert codes == [0] * world_size, errors
    return Trained(folder, recipes, errors)


def config(folder: Path, name: str) -> dict[str, Any]:
    kind, changes = CONFIGS[name]
    return {"config": str(config_file(folder / "configs" / name, kind, **changes))}


def in_layout(recipe: Recipe, degrees: dict[str, Any]) -> Recipe:
    """The same training, which writes a checkpoint where it is stopped only."""
    saving = recipe.checkpointing.model_copy(update={"every_steps": STEPS})
    layout = Parallelism.model_validate(degrees)
    return recipe.model_copy(update={"parallelism": layout, "checkpointing": saving})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("pair")
    recipes = {name: settings(folder, config(folder, name), {"tensor": 2}) for name in CONFIGS}
    whole = model_folder(folder / "whole", "llama", **PLAIN)
    (whole / "tokenizer.json").unlink()
    adapted = {"path": str(whole), "lora": {"rank": 2, "alpha": 64}}
    recipes["adapters"] = settings(folder, adapted, {"tensor": 2}, schedule={"warmupSteps": 0})
    gpt2 = settings(folder, {"config": str(config_file(folder / "gpt2", "gpt2"))}, {"tensor": 2})
    # Each begins in one process, and goes on in this gang, in two layouts.
    changing = []
    for name in CHANGING:
        assert train_here(in_layout(recipes[name], {}), folder / f"{name} changes", stop_after=4) == EXIT_PREEMPTED
        for degrees, until in ((SHARD, 9), ({"tensor": 2}, 14)):
            changing.append(run(in_layout(recipes[name], degrees), folder / f"{name} changes", stop_after=until))
    return trained(recipes, 2, folder, run(gpt2, folder / "refused"), *changing)


@pytest.fixture(scope="module")
def quartet(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("quartet")
    batch = {"globalBatchSize": 16, "microBatchSize": 2}
    recipes = {name: settings(folder, config(folder, kind), how, batch=batch) for name, (kind, how) in FOUR.items()}
    return trained(recipes, 4, folder)


@pytest.mark.parametrize("name", TWO)
def test_two_ranks_have_the_losses_of_one_process(name: str, pair: Trained) -> None:
    assert list(pair.losses(name)) == list(range(1, STEPS + 1))
    assert pair.losses(name) == pytest.approx(pair.losses_of_one_process(name), abs=TOLERANCE)


@pytest.mark.parametrize("name", CHANGING)
def test_a_training_may_change_its_layout_at_every_stop(name: str, pair: Trained) -> None:
    storage = pair.folder / f"{name} changes"
    assert newest_step(storage) == 14
    assert train_here(in_layout(pair.recipes[name], {}), storage) == 0
    assert list(pair.losses(f"{name} changes")) == list(range(1, STEPS + 1))
    assert pair.losses(f"{name} changes") == pytest.approx(pair.losses_of_one_process(name), abs=TOLERANCE)


def newest_step(storage: Path) -> int:
    return max(int(path.name.removeprefix("step-")) for path in (storage / "checkpoints").iterdir())


@pytest.mark.parametrize("name", FOUR)
def test_four_ranks_have_the_losses_of_one_process(name: str, quartet: Trained) -> None:
    assert list(quartet.losses(name)) == list(range(1, STEPS + 1))
    assert quartet.losses(name) == pytest.approx(quartet.losses_of_one_process(name), abs=TOLERANCE)


@pytest.mark.parametrize("name", [*TWO, *FOUR])
def test_a_resume_ends_in_the_same_bits(name: str, pair: Trained, quartet: Trained) -> None:
    assert (pair if name in TWO else quartet).ends_in_the_same_bits(name)


@pytest.mark.parametrize("name", [*TWO, *FOUR])
def test_the_library_loads_the_trained_folder_with_the_same_logits(name: str, pair: Trained, quartet: Trained) -> None:
    folder = (pair if name in TWO else quartet).folder / name / "artifacts/model"
    tokens = torch.randint(2, 256, (2, 16), generator=torch.Generator().manual_seed(3))
    model, told = library().AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert torch.equal(model.eval()(tokens).logits, load_model(folder)(tokens))


def test_a_model_without_a_plan_is_refused_before_training(pair: Trained) -> None:
    assert all("recipe.parallelism.tensor must be 1: transformers has no tensor-parallel" in one for one in pair.errors)
    assert all("; each of these alone would do: recipe.parallelism.tensor 1" in one for one in pair.errors)
    assert not list((pair.folder / "refused/checkpoints").iterdir())
