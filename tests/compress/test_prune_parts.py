"""Structured pruning of our own families: heads, width, layers and channels, by each criterion, and tied weights."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders.compress import apply, pruned, recipe
from costopt.schema.compression import Prune, Step
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.prune import share_gone
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.table import apply_steps
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

SIZES = {"numLayers": 3, "numHeads": 4, "embeddingDim": 64, "contextLength": 32}
LLAMA = {**SIZES, "preset": "Llama", "numKeyValueHeads": 2}
TOKENS = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(1))
CRITERIA = ["L1", "Random", "Taylor", "Activation"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    folder = tmp_path_factory.mktemp("text")
    return load_data(recipe("DecoderLM", folder).data, context_length=32, cache_dir=folder / "cache")


def shape_of(**settings: Any) -> ModelShape:
    plain = {"type": "DecoderLM", "decoderLM": settings}
    return ModelShape(ModelSettings.model_validate(plain), vocabulary_size=256)


def fresh(shape: ModelShape) -> Any:
    torch.manual_seed(3)
    return build_model(shape).eval()


def taught(model: Any, step: Step, data: TrainingData) -> str:
    """What a step says that may measure on `data`."""
    run = lambda _number, pieces: StepRun(TOKENS[:1], pieces, data=data)  # noqa: E731
    [line] = apply_steps(model, [step], run)
    return line


def stored(model: Any, shape: ModelShape, folder: Path) -> Any:
    save_model(folder, model, shape, widths=model.widths())
    return load_model(folder)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("settings", [{**SIZES, "preset": "GPT2"}, LLAMA], ids=["GPT2", "Llama"])
def test_every_part_may_go_by_every_criterion_and_the_rest_is_stored(
    tmp_path: Path, text: TrainingData, settings: dict[str, Any], criterion: str
) -> None:
    shape = shape_of(**settings)
    model = fresh(shape)
    before = sum(parameter.numel() for parameter in model.parameters())
    parts: list[Any] = ["Channels", "Heads", "HiddenWidth", "Layers"]
    line = taught(model, pruned("Structured", 50, of=parts, criterion=criterion), text)

    mlp = model.layers["0"].mlp.expand
    assert (mlp.in_features, mlp.out_features) == (32, (shape.settings.decoder_lm.as_built().mlp_width or 0) // 2)
    assert model.num_layers == 2
    assert [model.layers[layer].attention.num_heads for layer in "01"] == [2, 2]
    assert model.token_embedding.weight.shape == (256, 32)
    assert sum(parameter.numel() for parameter in model.parameters()) < before / 2
    assert "1 layer" in line
    with torch.no_grad():
        assert torch.equal(stored(model, shape, tmp_path / "m")(TOKENS), model(TOKENS))


def idle_heads(model: Any) -> None:
    for layer, group in (("0", 1), ("1", 0), ("2", 1)):
        attention = model.layers[layer].attention
        of_query, of_key = slice(group * 32, group * 32 + 32), slice(group * 16, group * 16 + 16)
        for linear, rows in ((attention.q, of_query), (attention.k, of_key), (attention.v, of_key)):
            linear.weight[rows] *= 1e-6
        attention.out.weight[:, of_query] *= 1e-6


def idle_channels(model: Any) -> None:
    for block in model.layers.values():
        block.mlp.expand.weight[::2] *= 1e-6
        block.mlp.gate.weight[::2] *= 1e-6
        block.mlp.contract.weight[:, ::2] *= 1e-6


def idle_layer(model: Any) -> None:
    for parameter in model.layers["1"].parameters():
        parameter.mul_(1e-6)


@pytest.mark.parametrize("criterion", ["L1", "Taylor", "Activation"])
@pytest.mark.parametrize(
    ("part", "percent", "idle"),
    [("Heads", 50, idle_heads), ("Channels", 50, idle_channels), ("Layers", 34, idle_layer)],
)
def test_what_adds_nothing_goes_first(
    text: TrainingData, part: str, percent: int, idle: Callable[[Any], None], criterion: str
) -> None:
    model = fresh(shape_of(**LLAMA))
    with torch.no_grad():
        idle(model)
        expected = model(TOKENS)
    taught(model, pruned("Structured", percent, of=[part], criterion=criterion), text)
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), expected, rtol=1e-4, atol=1e-5)


def test_what_is_measured_on_samples_depends_on_seed_and_count_alone(text: TrainingData) -> None:
    def gates(**choice: Any) -> torch.Tensor:
        model = fresh(shape_of(**LLAMA))
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        taught(model, pruned("Structured", 50, criterion="Taylor", **choice), text)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert [parameter.requires_grad for parameter in model.parameters()] == wanted
        return model.layers["0"].mlp.gate.weight

    assert torch.equal(gates(), gates())
    assert not torch.equal(gates(), gates(seed=5))
    assert not torch.equal(gates(), gates(calibration_batches=1))


@pytest.mark.parametrize("criterion", ["Taylor", "Activation"])
@pytest.mark.parametrize("structure", ["Structured", "Unstructured"])
def test_without_samples_to_measure_on_the_answer_is_a_sentence(
    text: TrainingData, structure: str, criterion: str
) -> None:
    step = pruned(structure, 50, criterion=criterion)
    sentence = f"prune.criterion must be L1 or Random here: {criterion} is measured on samples to train on"
    with pytest.raises(NotRetryable, match=sentence):
        apply(fresh(shape_of(**LLAMA)), [step], TOKENS[:1])
    with pytest.raises(NotRetryable, match=sentence):
        taught(fresh(shape_of(**LLAMA)), step, replace(text, num_train_samples=0))


@pytest.mark.parametrize("settings", [{**SIZES, "preset": "GPT2"}], ids=["tied"])
def test_tied_embeddings_become_narrower_together_and_stay_tied(tmp_path: Path, settings: dict[str, Any]) -> None:
    shape = shape_of(**settings)
    model = fresh(shape)
    apply(model, [pruned("Structured", 25, of=["HiddenWidth"])], TOKENS[:1])
    assert model.head.weight is model.token_embedding.weight
    assert model.head.weight.shape == (256, 48)
    loaded = stored(model, shape, tmp_path / "m")
    assert loaded.head.weight is loaded.token_embedding.weight
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS), model(TOKENS))


def test_a_tensor_that_two_layers_share_and_would_lose_different_parts_of_is_refused() -> None:
    model = fresh(shape_of(**SIZES))
    model.layers["1"].mlp.expand.weight = model.layers["0"].mlp.expand.weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(NotRetryable, match=r"layers\.0\.mlp\.expand\.weight is one tensor with layers\.1\.mlp"):
        apply(model, [pruned("Structured", 50, of=["Channels"], criterion="Random")], TOKENS[:1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "nothing was cut"


@pytest.mark.parametrize(
    ("settings", "percent", "of", "sentence"),
    [
        (
            {"numHeads": 8, "numKeyValueHeads": 2},
            25,
            ["Heads"],
            "whole groups of the 4 query heads .* 25 percent is 2 of 8 heads, and 50 percent would be 4",
        ),
        ({"numKeyValueHeads": 1}, 50, ["Heads"], "its 4 query heads share one head of keys and values"),
    ],
)
def test_heads_that_would_break_their_groups_are_refused_with_a_number_that_fits(
    settings: dict[str, Any], percent: int, of: list[Any], sentence: str
) -> None:
    model = fresh(shape_of(**{**LLAMA, **settings}))
    with pytest.raises(NotRetryable, match=sentence):
        apply(model, [pruned("Structured", percent, of=of)], TOKENS[:1])
    apply(model, [pruned("Structured", percent)], TOKENS[:1])  # unasked, they are rounded down


def test_a_part_that_a_model_lacks_is_refused_by_name() -> None:
    lstm = build_model(
        ModelShape(ModelSettings.model_validate({"type": "LSTM", "lstm": {"embeddingDim": 16}}), vocabulary_size=256)
    )
    with pytest.raises(NotRetryable, match=r"prune\.of must not name Heads for this model: it has Layers"):
        apply(lstm, [pruned("Structured", 50, of=["Heads"])], TOKENS[:1])
    with pytest.raises(NotRetryable, match=r"must be Unstructured for this model, or prune\.of must be \[Layers\]"):
        apply(lstm, [pruned("Structured", 50)], TOKENS[:1])


FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[Any, ...]]] = {
    "LSTM": ({"type": "LSTM", "lstm": {"embeddingDim": 16, "numLayers": 4}}, {"vocabulary_size": 50}, ("Layers",)),
    "ResNet": (
        {"type": "ResNet", "resNet": {"numStages": 2, "numBlocks": 6, "baseChannels": 4}},
        {"image_shape": (1, 12, 12), "num_classes": 3},
        ("Channels", "Layers"),
    ),
    "Encoder": (
        {"type": "Encoder", "encoder": {"embeddingDim": 32, "contextLength": 16, "numLayers": 3, "norm": "Post"}},
        {"vocabulary_size": 53, "pad_id": 50, "num_classes": 3},
        ("Channels", "Heads", "HiddenWidth", "Layers"),
    ),
    "Encoder with a bottleneck": (
        {
            "type": "Encoder",
            "encoder": {"embeddingDim": 32, "contextLength": 16, "bottleneckDim": 16, "mlpsPerLayer": 2},
        },
        {"vocabulary_size": 53, "pad_id": 50, "num_classes": 3},
        ("Channels", "Heads", "HiddenWidth", "Layers"),
    ),
    "MLP": ({"type": "MLP", "mlp": {"numLayers": 3}}, {"num_features": 5, "num_classes": 3}, ("Channels",)),
    "DecoderLM of factors": (
        {"type": "DecoderLM", "decoderLM": {**SIZES, "rank": 8, "positions": "Rotary"}},
        {"vocabulary_size": 50},
        ("Channels", "Heads", "HiddenWidth", "Layers"),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_loses_its_parts_in_two_steps_and_is_stored(tmp_path: Path, family: str) -> None:
    plain, of_data, parts = FAMILIES[family]
    shape = ModelShape(ModelSettings.model_validate(plain), **of_data)
    model = fresh(shape)
    generator = torch.Generator().manual_seed(1)
    if shape.vocabulary_size is not None:
        inputs = torch.randint(0, 50, (2, 16), generator=generator)
    else:
        inputs = torch.randn(2, *(shape.image_shape or (5,)), generator=generator)
    sizes = [sum(parameter.numel() for parameter in model.parameters())]
    for percent in (34, 40):
        apply(model, [pruned("Structured", percent, of=list(parts))], inputs[:1])
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
        with torch.no_grad():
            assert torch.equal(stored(model, shape, tmp_path / "m")(inputs), model(inputs))
    assert sizes[0] > sizes[1] > sizes[2]
    if "Layers" in parts:
        assert model.layer_numbers is not None
        assert len(model.layer_numbers) == model.num_layers


def test_the_blocks_of_a_res_net_that_change_size_stay() -> None:
    plain, of_data, _ = FAMILIES["ResNet"]
    model = fresh(ModelShape(ModelSettings.model_validate(plain), **of_data))
    assert model.removable_layers() == (0, 1, 2, 4, 5)
    apply(model, [pruned("Structured", 99, of=["Layers"])], torch.randn(1, 1, 12, 12))
    assert model.layer_numbers == (3,)


@given(percent=st.integers(1, 99), rounds=st.integers(1, 100))
def test_rounds_remove_ever_less_and_all_in_the_end(percent: int, rounds: int) -> None:
    settings = Prune(structure="Unstructured", percent=percent, rounds=rounds, fine_tune_steps=1)
    gone = [0, *(share_gone(settings, number) for number in range(1, rounds + 1))]
    steps = [after - before for before, after in pairwise(gone)]
    assert gone[-1] * 100 == percent
    assert all(step > 0 for step in steps)
    assert steps == sorted(steps, reverse=True)
