"""Training with rounded weights: rounded as afterwards, and better for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders.compress import apply, example_inputs, fresh_model, pruned, quantized
from builders.steps import StepStage
from costopt.schema.compression import Quantize, Step
from costopt_trainer.compress import fake_quantize, quantize
from costopt_trainer.compress.fake_quantize import Grid, grids
from costopt_trainer.compress.gptq import gptq
from costopt_trainer.compress.onnx_export import export
from costopt_trainer.compress.onnx_quantize import quantize_graph
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.light import SparseLinear
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.onnx_model import OnnxModel
from costopt_trainer.storage.quantized_tensors import quantize_

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> StepStage:
    return StepStage.made("DecoderLM", tmp_path_factory.mktemp("stage")).saved_rarely()


def held_out_loss(stage: StepStage, model: nn.Module) -> float:
    data = stage.run().data
    assert data is not None
    inputs, targets = data.validation_batch(torch.arange(data.num_validation_samples).numpy())
    with torch.no_grad():
        return float(loss_sum(model(inputs), targets)) / targets.numel()


# ------------------------------------------------------------------------------------------------------- it rounds so


@pytest.mark.parametrize("scheme", ["Int8WeightOnly", "Int8DynamicActivation"])
@pytest.mark.parametrize("seven_bits", [False, True])
def test_8_bits_round_to_the_very_numbers_that_the_layer_has_afterwards(
    scheme: Any, seven_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (fake_quantize, quantize):
        monkeypatch.setattr(module, "should_reduce_range", lambda _device: seven_bits)
    torch.manual_seed(0)
    layer, settings = nn.Linear(40, 24, bias=False), Quantize(scheme=scheme)
    weights, activations = grids(settings, CPU)
    rounded = weights(layer.weight.detach().clone())
    x = torch.randn(3, 5, 40)
    expected = nn.functional.linear(x if activations is None else activations(x), rounded)
    quantize_(layer.requires_grad_(False), quantize._scheme(settings, CPU))
    assert torch.equal(layer.weight.dequantize(), rounded)  # type: ignore[operator]
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert (activations is not None) == (scheme == "Int8DynamicActivation")


@pytest.mark.parametrize(("width", "group_size"), [(64, 32), (72, 32), (48, 64)])
def test_4_bits_round_to_the_very_numbers_that_the_graph_computes_with(
    width: int, group_size: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    layer = nn.Linear(width, 24, bias=False).eval().requires_grad_(False)
    settings = Quantize.model_validate({"scheme": "Int4WeightOnly", "groupSize": group_size})
    rounded = grids(settings, CPU)[0](layer.weight)
    (tmp_path / "whole").mkdir()
    export(layer, torch.eye(width), tmp_path / "whole")
    quantize_graph(tmp_path / "whole", tmp_path, settings, reduce_range=False)
    # Rows of the unit matrix have no rounding of their own: each product is a weight.
    torch.testing.assert_close(OnnxModel(tmp_path)(torch.eye(width)), rounded.T, rtol=1e-5, atol=1e-6)
    # So does the other rounding, where inputs have nothing to do with each other.
    made = gptq(layer.weight.T, torch.eye(width), group_size)
    groups = torch.arange(width) // group_size
    found = made.scales_GN[groups] * (made.codes_KN - made.zeros_GN[groups])
    torch.testing.assert_close(found.T.float(), rounded, rtol=1e-5, atol=1e-6)


def test_the_gradient_passes_the_rounding() -> None:
    x = torch.randn(4, 8, requires_grad=True)
    (Grid(4)(x) * torch.arange(8.0)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.arange(8.0).expand(4, 8))
    assert not torch.equal(Grid(4)(x), x)


def test_rows_of_zeros_stay_zeros() -> None:
    assert not Grid(8)(torch.zeros(2, 8)).any()
    assert not Grid(4, symmetric=False, group_size=4)(torch.zeros(2, 6)).any()


# ------------------------------------------------------------------------------------------------------ it is worth it


def rounded_loss(stage: StepStage, model: LayeredModel, weights: Grid) -> float:
    """The loss with weights of so few bits, rounded in place."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = weights(module.weight.data)
    return held_out_loss(stage, model)


@pytest.mark.slow
def test_training_with_rounded_weights_loses_less_than_the_same_training_without(
    stage: StepStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = Grid(2, symmetric=False, group_size=64)  # of 4 bits so small a model hardly feels anything
    monkeypatch.setattr(fake_quantize, "grids", lambda _settings, _device: (coarse, None))
    rate = {"learning_rate": "1e-3"}
    learned, (line,) = stage.applied(quantized("Int4WeightOnly", fine_tune_steps=60, **rate))
    assert "in the ONNX graph, trained with rounded weights: 60 steps on 1 rank, training loss" in line
    step = {"type": "FineTune", "fineTune": {"steps": 60, "learningRate": "1e-3"}}
    tuned, _ = stage.applied(Step.model_validate(step))
    whole = held_out_loss(stage, tuned)
    lost = [rounded_loss(stage, model, coarse) - whole for model in (learned, tuned)]
    assert lost[0] < lost[1] / 2, "it is the rounding that was learned, not the data"


def test_layers_come_back_as_they_were_and_ties_and_zeros_stay(stage: StepStage) -> None:
    step = quantized("Int4WeightOnly", fine_tune_steps=3, embeddings=True, learning_rate="1e-3")
    model, _ = stage.applied(pruned("Unstructured", 50))
    kinds = {name: type(module) for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    made, _ = stage.applied(pruned("Unstructured", 50), step)
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: type(module) for name, module in made.named_modules()} == kinds
    assert made.state_dict().keys() == before.keys()
    sparse = [name for name, kind in kinds.items() if kind is SparseLinear]
    assert sparse
    for name in sparse:
        weight, old = made.state_dict()[f"{name}.weight"], before[f"{name}.weight"]
        assert torch.equal(weight == 0, old == 0)
        assert not torch.equal(weight, old)
    assert not any(vars(module).keys() & {"round_weight", "round_input"} for module in made.modules())


def test_activations_are_rounded_while_it_trains_where_the_scheme_has_them_so(
    stage: StepStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[int] = []
    nearest = Grid.nearest

    def seen(self: Grid, x: Tensor) -> Tensor:
        shapes.append(x.ndim)
        return nearest(self, x)

    monkeypatch.setattr(Grid, "nearest", seen)
    for number, scheme in enumerate(("Int8WeightOnly", "Int8DynamicActivation")):
        shapes.clear()
        stage.copied(stage.storage.parent / f"activations-{number}").applied(quantized(scheme, fine_tune_steps=1))
        assert set(shapes) == ({2} if scheme == "Int8WeightOnly" else {2, 3})


def test_a_command_s_model_is_refused_in_a_sentence() -> None:
    with pytest.raises(NotRetryable, match="a step that trains needs a model that a recipe of this job") as error:
        apply(fresh_model("DecoderLM"), [quantized("Int8WeightOnly", fine_tune_steps=2)], example_inputs("DecoderLM"))
    assert error.value.reason == "InvalidSettings"
