"""The table of families of models: each row fulfils its contract, and a new row touches nothing else."""

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from builders.compress import apply, pruned
from builders.hugging_face import from_scratch
from builders.trainer import recipe, text_file
from costopt.schema import models as language
from costopt.schema.base import Strict, field_key
from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, MASKED_TEXT, TABLES, TEXT, data_fits_model
from costopt.schema.model_family import FamilySettings
from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Recipe
from costopt.schema.replica import Progress
from costopt.schema.unions import UNIONS, settings_named, tagged_union
from costopt_trainer.compress.prune_units import units_of
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.family import LayeredModel, Prunable
from costopt_trainer.models.shape import ModelShape, Widths
from costopt_trainer.models.table import (
    FAMILIES,
    build_model,
    context_length_of,
    family_of,
    kind_of_samples,
    metric_of,
    settings_that_must_stay,
)
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.evaluation import Totals, describe_results
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

VARIATIONS: dict[str, dict[str, Any]] = {
    "DecoderLM of preset GPT2": {"type": "DecoderLM", "decoderLM": {"preset": "GPT2"}},
    "DecoderLM of preset Llama": {"type": "DecoderLM", "decoderLM": {"preset": "Llama", "numKeyValueHeads": 2}},
    "DecoderLM with light layers": {
        "type": "DecoderLM",
        "decoderLM": {
            "preset": "Llama",
            "tiedEmbeddings": True,
            "rank": 8,
            "layerRepeats": 2,
            "sparsity": {"percent": 50},
        },
    },
    "Encoder with light layers": {
        "type": "Encoder",
        "encoder": {
            "numLayers": 2,
            "embeddingDim": 32,
            "contextLength": 16,
            "rank": 4,
            "layerRepeats": 2,
            "sparsity": {"percent": 50},
        },
    },
    "LSTM with light layers": {
        "type": "LSTM",
        "lstm": {"embeddingDim": 16, "tiedEmbeddings": True, "layerRepeats": 2, "sparsity": {"percent": 50}},
    },
    "ResNet for large images, with sparse layers": {
        "type": "ResNet",
        "resNet": {
            "numBlocks": 4,
            "numStages": 2,
            "largeImages": True,
            "sparsity": {"percent": 50, "mask": "Magnitude"},
        },
    },
    "MLP with light layers": {"type": "MLP", "mlp": {"width": 32, "rank": 4, "sparsity": {"percent": 50}}},
}
"""Settings of the families by what is special about them; a DecoderLM is made smaller below."""
SMALL = {"numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 16}


def variation(name: str) -> ModelSettings:
    plain = VARIATIONS[name]
    if "decoderLM" in plain:
        plain = {**plain, "decoderLM": {**SMALL, **plain["decoderLM"]}}
    return ModelSettings.model_validate(plain)


def settings_of(word: str, folder: Path) -> ModelSettings:
    """The least that a manifest must say of a family."""
    if word == "HuggingFace":
        return from_scratch(folder, "gpt2").settings
    if word == "Import":
        own = {"function": f"{__name__}:imported_by_its_name", "contextLength": 16}
        return ModelSettings.model_validate({"type": "Import", "import": own})
    return ModelSettings.model_validate({"type": word})


def imported_by_its_name(vocabulary_size: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(vocabulary_size, 8), nn.Linear(8, vocabulary_size))


def shape_of(settings: ModelSettings) -> ModelShape:
    """A shape with all that data of the kind can tell, and no more."""
    of_data: dict[str, dict[str, Any]] = {
        TEXT: {"vocabulary_size": 300 if settings.type == "HuggingFace" else 50},
        MASKED_TEXT: {"vocabulary_size": 53, "pad_id": 50},
        LABELLED_TEXT: {"vocabulary_size": 53, "pad_id": 50, "num_classes": 3, "class_names": ("bad", "good", "so so")},
        IMAGES: {"image_shape": (1, 16, 12), "num_classes": 5},
        TABLES: {"num_features": 7, "num_classes": 5},
    }
    return ModelShape(settings, **of_data[kind_of_samples(settings)])


def inputs_for(shape: ModelShape, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if shape.image_shape is not None:
        return torch.randn(count, *shape.image_shape, generator=generator)
    if shape.num_features is not None:
        return torch.randn(count, shape.num_features, generator=generator)
    length = context_length_of(shape.settings)
    assert length is not None, "what reads text says how much of it"
    tokens = torch.randint(0, 50, (count, length), generator=generator)
    if shape.pad_id is not None:  # the last sample is shorter than the others
        tokens[-1, length // 3 :] = shape.pad_id
    return tokens


def fresh(shape: ModelShape, widths: Widths | None = None) -> LayeredModel:
    torch.manual_seed(1)
    return build_model(shape, widths)


def check_contract(settings: ModelSettings) -> None:
    """What the loop, the pipeline and compression ask of a family, held for `settings`."""
    family, shape = family_of(settings), shape_of(settings)
    whole, inputs = fresh(shape).eval(), inputs_for(shape)
    logits = whole(inputs)
    metric = metric_of(settings)
    assert logits.shape[-1] == (shape.num_classes or shape.vocabulary_size)
    assert metric.accuracy == (logits.dim() == 2), "right answers are counted where a sample has one"
    assert metric.rate in Progress.model_fields
    length = context_length_of(settings)
    if length is not None:
        shorter = whole(inputs[:, : length // 2])
        assert shorter.shape[0] == 2, "a text may be shorter"
        assert metric.accuracy or shorter.shape[1] == length // 2
    fields = type(typing.cast(Strict, settings_named(settings))).model_fields
    assert family.may_change <= {field_key(name, field) for name, field in fields.items()}
    assert settings_that_must_stay(settings)["type"] == settings.type

    activations, names = inputs, []
    for layer in range(whole.num_layers):
        piece = fresh(shape).eval().keep_layers(layer, layer + 1)
        names += list(piece.state_dict())
        activations = piece(activations)
    assert torch.equal(activations, logits), "one layer after another is the whole model"
    assert sorted(names) == sorted(whole.state_dict())

    for part in whole.prunable():
        assert any(part.layer is module for module in whole.modules())
        assert part.layer.weight.shape[0] == part.channels
    units = units_of(fresh(shape), inputs[:1])
    if not units:
        with pytest.raises(NotRetryable, match=r"prune\.structure must be Unstructured for this model"):
            apply(fresh(shape), [pruned("Structured", 50)], inputs[:1])
        return
    assert all(part.tensor.shape[part.dim] == len(part.unit_I) for one in units for part in one.slices)
    narrow = fresh(shape)
    size = sum(parameter.numel() for parameter in narrow.parameters())
    before = narrow.widths()
    assert all(len(widths) % narrow.num_layers == 0 for widths in before.values())
    assert apply(narrow, [pruned("Structured", 50)], inputs[:1]), "something can go"
    after = narrow.eval().widths()
    assert after.keys() == before.keys()
    assert sum(parameter.numel() for parameter in narrow.parameters()) < size
    if not before:
        return  # its own folder says how wide it is
    assert sum(map(sum, after.values())) < sum(map(sum, before.values()))
    again = fresh(shape, after).eval()
    again.load_state_dict(narrow.state_dict())
    assert torch.equal(again(inputs), narrow(inputs)), "the widths are all that it takes to build it"


def test_every_word_of_the_language_has_a_row_and_every_row_a_word() -> None:
    assert set(typing.get_args(ModelSettings.model_fields["type"].annotation)) == FAMILIES.keys()


@pytest.mark.parametrize("word", FAMILIES)
def test_each_row_fulfils_the_contract(word: str, tmp_path: Path) -> None:
    check_contract(settings_of(word, tmp_path))


@pytest.mark.parametrize("name", VARIATIONS)
def test_each_row_fulfils_the_contract_whatever_its_settings(name: str) -> None:
    check_contract(variation(name))


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "Post"},
        {"task": "Classification"},
        {"task": "Classification", "norm": "Post", "pooling": "FirstToken"},
        {"bottleneckDim": 32, "mlpsPerLayer": 2},
        {"task": "Classification", "norm": "Post", "bottleneckDim": 32, "mlpsPerLayer": 3},
    ],
    ids=str,
)
def test_each_form_of_an_encoder_fulfils_the_contract(settings: dict[str, Any]) -> None:
    small = {"numLayers": 2, "embeddingDim": 64, "contextLength": 24, **settings}
    check_contract(ModelSettings.model_validate({"type": "Encoder", "encoder": small}))


@pytest.mark.parametrize("word", FAMILIES)
def test_a_family_that_lacks_what_its_data_tells_says_so(word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"the shape of an? {word} must give"):
        build_model(ModelShape(settings_of(word, tmp_path)))


@pytest.mark.parametrize("word", [word for word in FAMILIES if word not in ("HuggingFace", "Import")])
def test_a_setting_that_may_change_shapes_no_weight(word: str) -> None:
    settings = ModelSettings.model_validate({"type": word})
    [member] = [member for member in UNIONS[ModelSettings] if member.word == word]
    for key in family_of(settings).may_change:
        other = ModelSettings.model_validate({"type": word, member.key: {key: 30}})
        assert settings_that_must_stay(other) == settings_that_must_stay(settings)
        one, two = fresh(shape_of(settings)).state_dict(), fresh(shape_of(other)).state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)


class ByteMLP(FamilySettings):
    """A language model that sees one token at a time: residual layers, each expanded and contracted."""

    reads = TEXT
    layers_field = "num_layers"

    num_layers: Annotated[int, Field(ge=1, le=64)] = 2
    """Residual layers."""
    width: Annotated[int, Field(ge=1, le=4096)] = 16
    """Channels between layers."""
    tokens: Annotated[int, Field(ge=1, le=4096)] = 8
    """Tokens per sample."""


@tagged_union
class LongerModelSettings(ModelSettings):
    """What the language would have with one more family."""

    type: Literal[*FAMILIES, "ByteMLP"]  # type: ignore[assignment,valid-type]
    byte_mlp: ByteMLP | None = Field(default=None, alias="byteMLP")


class LongerRecipe(Recipe):
    model: LongerModelSettings
    rules = (data_fits_model(LongerModelSettings, DataSettings),)


class Layer(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(self.expand(x).relu())


class ByteMLPModel(LayeredModel):
    def __init__(self, settings: ByteMLP, vocabulary_size: int, widths: Widths) -> None:
        super().__init__()
        hidden = widths.get("hidden", (2 * settings.width,) * settings.num_layers)
        self.num_layers = settings.num_layers
        self.embedding: nn.Embedding | None = nn.Embedding(vocabulary_size, settings.width)
        self.layers = nn.ModuleDict({str(layer): Layer(settings.width, size) for layer, size in enumerate(hidden)})
        self.head: nn.Linear | None = nn.Linear(settings.width, vocabulary_size)

    def drop_ends(self, *, start: bool, end: bool) -> None:
        self.embedding, self.head = None if start else self.embedding, None if end else self.head

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"hidden": tuple(layer.expand.out_features for layer in self.layers.values())}  # type: ignore[union-attr,misc]

    def prunable(self) -> Iterator[Prunable]:
        for layer in self.layers.values():
            yield Prunable(layer.expand, layer.expand.out_features)  # type: ignore[union-attr,arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embedding is None else self.embedding(x)
        for layer in self.layers.values():
            x = layer(x)
        return x if self.head is None else self.head(x)


class ByteMLPFamily:
    may_change: frozenset[str] = frozenset()

    def context_length(self, settings: ByteMLP) -> int | None:
        return settings.tokens

    def build(self, settings: ByteMLP, shape: ModelShape, widths: Widths) -> ByteMLPModel:
        if shape.vocabulary_size is None:
            raise ValueError("the shape of a ByteMLP must give vocabulary_size")
        return ByteMLPModel(settings, shape.vocabulary_size, widths)


FAMILY = ByteMLPFamily()


@pytest.fixture
def with_byte_mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row, and the language in which an artifact is read again."""
    monkeypatch.setitem(FAMILIES, "ByteMLP", f"{__name__}:FAMILY")
    monkeypatch.setattr(language, "ModelSettings", LongerModelSettings)


@pytest.mark.usefixtures("with_byte_mlp")
def test_one_more_family_is_settings_a_file_and_a_row(tmp_path: Path) -> None:
    plain = recipe(text_file(tmp_path), totalSteps=40, evaluation={"everySteps": 20}).to_plain()
    plain["optimizer"]["learningRate"] = "0.02"
    settings = LongerRecipe.model_validate({**plain, "model": {"type": "ByteMLP", "byteMLP": {"numLayers": 3}}})
    check_contract(settings.model)

    storage = tmp_path / "storage"
    storage.mkdir()

    def training() -> Training:
        begun = Training(settings, storage, ALONE, Meter(), Stop(), job="test")
        begun.resume()
        return begun

    whole = training()
    run_steps(whole)
    whole.finish()
    assert isinstance(whole.module, ByteMLPModel)
    results = whole.progress.results
    assert float(results["validationLossNatsPerByte"]) < float(results["unigramEntropyNatsPerByte"])
    assert "validationLossNatsPerToken" in results
    assert "validationAccuracyPermille" not in results
    assert whole.progress.samples_per_second is None
    assert training().step == settings.total_steps, "its checkpoint is its own"

    trained = load_model(storage / "artifacts" / "model")
    inputs = whole.data.validation_batch(torch.arange(2).numpy())[0]
    assert torch.equal(trained(inputs), whole.module.eval()(inputs))
    apply(trained, [pruned("Structured", 50)], inputs[:1])
    save_model(tmp_path / "narrow", trained, whole.shape, widths=trained.widths())
    narrow = load_model(tmp_path / "narrow")
    assert narrow.widths() == {"hidden": (16, 16, 16)}
    assert torch.equal(narrow(inputs), trained.eval()(inputs))


def test_the_unit_of_the_results_is_that_of_the_family(tmp_path: Path) -> None:
    data = Training(recipe(text_file(tmp_path)), tmp_path, ALONE, Meter(), Stop(), job="test").data
    for word, expected in (("DecoderLM", False), ("ConvNet", True)):
        counts = torch.ones(3, 2, dtype=torch.float64) if expected else None
        totals = Totals(loss_sum=2.0, num_targets=2, class_counts=counts)
        results = describe_results(metric_of(ModelSettings.model_validate({"type": word})), data, totals)
        assert ("validationAccuracyPermille" in results) == expected
        assert ("validationLossNatsPerSample" in results) == expected
        assert ("validationPerplexityPerToken" in results) != expected
    assert json.dumps(results)
