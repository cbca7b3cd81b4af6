"""One set of weights in several places: few values in a matrix, or one layer in place of several."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.compress import LM_SHAPE, example_inputs, fresh_model, pruned, train_stage
from builders.hugging_face import from_scratch
from costopt.schema.compression import Accept, LowRank, Prune, ShareWeights, Step, Variant
from costopt.schema.models import LSTM, Encoder, ModelSettings
from costopt.schema.unions import settings_named
from costopt_trainer.compress import measure, run
from costopt_trainer.compress.share_weights import cluster, share_layers, share_values
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config, save_model
from costopt_trainer.models.factors import ranks_of
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model


def shared(**given: Any) -> Step:
    return Step(type="ShareWeights", share_weights=ShareWeights(**given))


WEIGHTS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(1, 4))
def test_each_weight_becomes_the_mean_of_its_cluster(values: list[float], bits: int) -> None:
    weights = torch.tensor(values)
    found = cluster(weights, bits)
    assert len(found.unique()) <= 2**bits
    assert torch.equal(found[weights == 0], weights[weights == 0]), "zeros stay zeros"
    others, of_others = weights[weights != 0], found[weights != 0]
    assert bool((of_others[others.argsort(stable=True)].diff() >= 0).all()), "clusters do not overlap"
    if len(weights[weights != 0].unique()) > 2**bits:
        for value in found[weights != 0].unique():
            members = weights[(found == value) & (weights != 0)].double()
            assert float(members.mean()) == pytest.approx(float(value), rel=1e-5, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(WEIGHTS)
def test_weights_of_few_values_are_left_alone(values: list[float]) -> None:
    weights = torch.tensor(values)
    assert torch.equal(cluster(weights, 8), weights)


def test_more_bits_are_nearer_and_beat_equal_steps() -> None:
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    errors = [float((cluster(weights, bits) - weights).square().mean()) for bits in (2, 3, 4, 6)]
    assert errors == sorted(errors, reverse=True)
    # Lloyd and Max: of a normal distribution the best 4 levels leave 0.1175 of the variance, the best 16 leave 0.0095.
    assert errors[0] == pytest.approx(0.1175, rel=0.1)
    assert errors[2] == pytest.approx(0.0095, rel=0.25)


def test_a_model_of_few_values_is_stored_in_few_bits_and_loaded_to_the_bit(tmp_path: Path) -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    whole = save_model(tmp_path / "whole", model, LM_SHAPE)
    line = share_values(model, 4)
    assert line.startswith("ShareWeights 4 bits: 15 matrices have at most 16 different values each")
    size = save_model(tmp_path / "small", model, LM_SHAPE, steps=[shared(cluster_bits=4)])
    assert size < 0.16 * whole
    again = load_model(tmp_path / "small")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert torch.equal(again(inputs), model(inputs))


def test_what_was_pruned_stays_pruned() -> None:
    from builders.compress import apply

    model, inputs = fresh_model("ConvNet"), example_inputs("ConvNet")
    apply(model, [pruned("Unstructured", 50)], inputs)
    zeros = {name: weight == 0 for name, weight in model.named_parameters() if weight.dim() >= 2}
    share_values(model, 3)
    for name, weight in model.named_parameters():
        if weight.dim() >= 2:
            assert torch.equal(weight == 0, zeros[name]), name


def test_a_folder_that_the_library_cannot_read_does_not_look_like_its_own(tmp_path: Path) -> None:
    shape = from_scratch(tmp_path / "config", "llama")
    model = build_model(shape).eval()
    share_values(model, 4)
    save_model(tmp_path / "small", model, shape, steps=[shared(cluster_bits=4)])
    assert not (tmp_path / "small/config.json").exists()
    tokens = torch.arange(16).view(1, 16)
    assert torch.equal(load_model(tmp_path / "small")(tokens), model(tokens))


SHAPES = {
    "DecoderLM": LM_SHAPE,
    "LSTM": ModelShape(
        ModelSettings(type="LSTM", lstm=LSTM(num_layers=4, embedding_dim=16, context_length=32)), vocabulary_size=256
    ),
    "Encoder": ModelShape(
        ModelSettings(
            type="Encoder",
            encoder=Encoder(task="MaskedLM", num_layers=4, num_heads=2, embedding_dim=16, context_length=32),
        ),
        vocabulary_size=256,
        pad_id=0,
    ),
}


@pytest.mark.parametrize("model_type", SHAPES)
def test_neighbours_become_their_mean_which_is_applied_as_often(model_type: str, tmp_path: Path) -> None:
    shape = SHAPES[model_type]
    torch.manual_seed(1)
    model = build_model(shape).eval()
    layers = [dict(layer.named_parameters()) for layer in model.layers.values()]
    means = {name: (layers[0][name] + layers[1][name]).detach() / 2 for name in layers[0]}
    line = share_layers(model, 2, shape)
    assert line.startswith(f"ShareWeights layers 2: {len(layers) // 2} layers in place of {len(layers)}")
    for name, mean in means.items():
        torch.testing.assert_close(dict(model.layers["0"].named_parameters())[name], mean)
    assert model.built_as is not None
    named: Any = settings_named(model.built_as.settings)
    assert (named.num_layers, named.layer_repeats) == (len(layers) // 2, 2)

    applied: list[int] = []
    for number, layer in model.layers.items():
        layer.register_forward_hook(lambda *_given, number=int(number): applied.append(number))
    tokens = example_inputs("DecoderLM")
    outputs = model(tokens)
    assert applied == [number for number in range(len(layers) // 2) for _ in range(2)]
    save_model(tmp_path / "small", model, model.built_as, widths=model.widths(), steps=[shared(layers=2)])
    assert torch.equal(load_model(tmp_path / "small")(tokens), outputs)


def test_layers_that_pruning_has_left_can_be_shared_and_factorised_ones_too(tmp_path: Path) -> None:
    from builders.compress import apply

    shape, tokens = SHAPES["Encoder"], example_inputs("DecoderLM")
    torch.manual_seed(1)
    model = build_model(shape).eval()
    fewer = Step(type="Prune", prune=Prune(structure="Structured", of=["Layers"], percent=50))
    factors = Step(type="LowRank", low_rank=LowRank(percent=50, calibration_samples=0))
    apply(model, [fewer, factors], tokens[:1])
    share_layers(model, 2, shape)
    assert len(model.layers) == 1
    outputs = model(tokens)
    widths = {**model.widths(), **ranks_of(model)}
    save_model(tmp_path / "small", model, model.built_as, widths=widths, steps=[shared(layers=2)])
    assert torch.equal(load_model(tmp_path / "small")(tokens), outputs)


@pytest.mark.parametrize(
    ("model_type", "times", "sentence"),
    [
        ("DecoderLM", 3, "shareWeights.layers must divide the 2 layers of the model, such as 2, and not be 3"),
        ("ConvNet", 2, "shareWeights.layers needs a model of type DecoderLM, Encoder or LSTM"),
    ],
)
def test_layers_that_cannot_be_shared_are_refused(model_type: str, times: int, sentence: str) -> None:
    from builders.compress import CONV_SHAPE

    shape = LM_SHAPE if model_type == "DecoderLM" else CONV_SHAPE
    with pytest.raises(NotRetryable, match=sentence):
        share_layers(fresh_model(model_type), times, shape)


@pytest.mark.parametrize("given", [{"cluster_bits": 5}, {"layers": 2}])
def test_a_variant_of_shared_weights_is_made_verified_and_smaller(
    given: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", 2)
    monkeypatch.setattr(measure, "MIN_RUNS", 2)
    storage = tmp_path / "storage"
    storage.mkdir()
    recipe = train_stage("DecoderLM", storage)
    accept = Accept(min_speedup="0.01", max_quality_drop_percent="1000", min_size_ratio="1.2")
    report = run.make_variant(Variant(name="small", steps=[shared(**given)], accept=accept), recipe, storage)
    assert report is not None
    assert report.reloaded
    assert float(report.size_ratio) > (3.5 if "cluster_bits" in given else 1.2)
    assert read_config(storage / report.artifact).steps == (shared(**given),)
