"""Pruning removes what it says it removes, and what matters least."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from builders.compress import apply, example_inputs, fresh_model, pruned, weight_only
from costopt_trainer.compress.footprint import count_parameters
from costopt_trainer.errors import NotRetryable


def _apply(model: Any, model_type: str, structure: str, percent: int, **choice: Any) -> None:
    apply(model, [pruned(structure, percent, **choice)], example_inputs(model_type)[:1])


def _prunable(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize("model_type", ["DecoderLM", "ConvNet"])
@pytest.mark.parametrize("criterion", ["L1", "Random"])
@pytest.mark.parametrize("percent", [10, 50, 95])
def test_unstructured_pruning_zeroes_that_percent_of_each_layer(model_type: str, criterion: str, percent: int) -> None:
    model = fresh_model(model_type)
    names = set(model.state_dict())
    _apply(model, model_type, "Unstructured", percent, criterion=criterion)
    for layer in _prunable(model):
        assert int((layer.weight == 0).sum()) == layer.weight.numel() * percent // 100
    assert set(model.state_dict()) == names  # no masks are left beside the weights


def test_unstructured_l1_zeroes_the_smallest_weights() -> None:
    model = fresh_model("DecoderLM")
    before = copy.deepcopy(model)
    _apply(model, "DecoderLM", "Unstructured", 30)
    for old, new in zip(_prunable(before), _prunable(model), strict=True):
        gone = new.weight == 0
        assert old.weight[gone].abs().max() <= old.weight[~gone].abs().min()
        assert torch.equal(old.weight[~gone], new.weight[~gone])


@pytest.mark.parametrize("structure", ["Unstructured", "Structured"])
def test_random_pruning_depends_on_the_seed_alone_and_leaves_the_generator_as_it_was(structure: str) -> None:
    outputs = []
    for torch_seed, seed in ((1, 5), (2, 5), (1, 6)):
        model = fresh_model("DecoderLM")
        torch.manual_seed(torch_seed)
        state = torch.get_rng_state()
        _apply(model, "DecoderLM", structure, 50, criterion="Random", seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        outputs.append(model(example_inputs("DecoderLM")))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("model_type", "percent", "widths"),
    [
        ("DecoderLM", 50, {"attention": (32, 32), "mlp": (128, 128)}),
        ("DecoderLM", 30, {"attention": (48, 48), "mlp": (180, 180)}),
        ("DecoderLM", 10, {"attention": (64, 64), "mlp": (231, 231)}),
        ("DecoderLM", 95, {"attention": (16, 16), "mlp": (13, 13)}),
        ("ConvNet", 50, {"channels": (4, 8)}),
        ("ConvNet", 95, {"channels": (1, 1)}),
    ],
)
@pytest.mark.parametrize("criterion", ["L1", "Random"])
def test_structured_pruning_makes_matrices_smaller(
    model_type: str, percent: int, widths: dict[str, tuple[int, ...]], criterion: str
) -> None:
    model, inputs = fresh_model(model_type), example_inputs(model_type)
    before, shape = count_parameters(model)[0], model(inputs).shape
    _apply(model, model_type, "Structured", percent, criterion=criterion)
    assert model.widths() == widths
    assert count_parameters(model)[0] < before
    assert model(inputs).shape == shape


def test_structured_pruning_removes_the_head_and_the_hidden_channels_that_matter_least() -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    with torch.no_grad():
        for layer, idle in (("0", 2), ("1", 0)):
            attention, mlp = model.layers[layer].attention, model.layers[layer].mlp
            rows = slice(idle * 16, (idle + 1) * 16)
            for linear in (attention.q, attention.k, attention.v):
                linear.weight[rows] *= 1e-6
            attention.out.weight[:, rows] *= 1e-6
            mlp.expand.weight[idle::4] *= 1e-6
            mlp.contract.weight[:, idle::4] *= 1e-6
        expected = model(inputs)
    _apply(model, "DecoderLM", "Structured", 25)
    assert model.widths() == {"attention": (48, 48), "mlp": (192, 192)}
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-6)


def test_structured_pruning_removes_the_convolution_channels_that_matter_least() -> None:
    model, inputs = fresh_model("ConvNet"), example_inputs("ConvNet")
    with torch.no_grad():
        for stage in model.layers.values():
            stage.conv.weight[1::2] *= 1e-6
            stage.norm.weight[1::2] = 1e-9
        model.layers["1"].conv.weight[:, 1::2] *= 1e-6
        model.head.weight[:, 1::2] *= 1e-6
        expected = model(inputs)
    averages = {name: stage.norm.running_mean[::2].clone() for name, stage in model.layers.items()}
    _apply(model, "ConvNet", "Structured", 50)
    assert model.widths() == {"channels": (4, 8)}
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-6)
    for name, stage in model.layers.items():
        assert torch.equal(stage.norm.running_mean, averages[name])


@pytest.mark.parametrize(("structure", "percent"), [("Structured", 5), ("Structured", 1)])
def test_a_percent_that_removes_nothing_is_refused(structure: str, percent: int) -> None:
    model = fresh_model("ConvNet")
    with pytest.raises(NotRetryable, match=f"prune.percent must be larger than {percent}") as error:
        _apply(model, "ConvNet", structure, percent)
    assert error.value.reason == "InvalidSettings"


def test_each_step_says_what_it_did_and_what_it_left() -> None:
    model = fresh_model("ConvNet")
    steps = [pruned("Structured", 50), pruned("Unstructured", 50), weight_only()]
    assert apply(model, steps, example_inputs("ConvNet")[:1]) == [
        "Prune Structured L1 50 percent: removed are 12 channels",
        "Prune Unstructured L1 50 percent: 178 weights are zero",
        "Quantize Int8WeightOnly: linear layers with 8-bit weights: 1 (2 convolution layers stay as they are)",
    ]
