"""8-bit floats: what they hold, where they run, and that an artifact has them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchao.quantization import quant_api

from builders.compress import LM_SHAPE, apply, example_inputs, fresh_model, quantized, replica, train_stage
from costopt.schema.compression import Variant
from costopt.schema.models import ModelSettings
from costopt_trainer.compress import run
from costopt_trainer.compress.engines import device_for, engines_for
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

ACTIVATIONS = "Float8DynamicActivation"


def variant(scheme: str, **settings: Any) -> Variant:
    return Variant(name="small", steps=[quantized(scheme)], **settings)


def distance(output: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((output - expected).norm() / expected.norm()).detach())


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao makes such weights where there is a GPU alone, but computes with them anywhere, if slowly."""
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda _granularity: None)


def test_each_weight_keeps_four_digits_of_its_own() -> None:
    model = fresh_model("DecoderLM")
    before = {name: layer.weight.clone() for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    (line,) = apply(model, [quantized("Float8WeightOnly")], example_inputs("DecoderLM"))
    assert line == f"Quantize Float8WeightOnly: linear layers with 8-bit weights: {len(before)}"
    for name, old in before.items():
        weight = model.get_submodule(name).weight
        assert weight.qdata.dtype == torch.float8_e4m3fn
        # e4m3: a leading one and three digits after it, down to 2**-6; below that steps of 2**-9.
        allowed = old.abs() / 16 + weight.scale * 2**-10
        assert ((weight.dequantize() - old).abs() <= allowed * 1.001).all()
        assert not torch.equal(weight.dequantize(), old)


@pytest.mark.parametrize(("scheme", "tolerance"), [("Float8WeightOnly", 0.05), (ACTIVATIONS, 0.08)])
def test_an_artifact_holds_what_was_made_to_the_bit(
    scheme: str, tolerance: float, tmp_path: Path, as_on_a_gpu: None
) -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    expected = model(inputs)
    whole = save_model(tmp_path / "whole", model, LM_SHAPE)
    apply(model, [quantized(scheme)], inputs)
    output = model.requires_grad_(False)(inputs)
    assert 0 < distance(output, expected) < tolerance
    assert save_model(tmp_path / "few", model, LM_SHAPE) < whole / 2.5
    assert torch.equal(load_model(tmp_path / "few")(inputs), output)


@pytest.mark.slow
def test_a_variant_of_8_bit_float_weights_is_made_on_a_cpu(tmp_path: Path) -> None:
    recipe = train_stage("DecoderLM", tmp_path)
    made = replica(recipe, quantized("Float8WeightOnly"), measure_seconds=6).variant
    assert made is not None
    report = run.make_variant(made, recipe, tmp_path)
    assert report is not None
    assert report.reloaded, "a fresh process gave the same output"
    assert report.measured.engine == "TorchEager"
    assert float(report.size_ratio) > 2.5


def test_8_bit_float_activations_need_a_gpu_that_multiplies_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    needed = "small has scheme Float8DynamicActivation, which needs a GPU of compute capability 8.9"
    with pytest.raises(NotRetryable, match=needed) as error:
        device_for(variant(ACTIVATIONS))
    assert error.value.reason == "InvalidSettings"
    assert device_for(variant("Float8WeightOnly")).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    with pytest.raises(NotRetryable, match=needed):
        device_for(variant(ACTIVATIONS))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert device_for(variant(ACTIVATIONS)) == torch.device("cuda")
    assert engines_for(variant(ACTIVATIONS), torch.device("cuda")) == ("TorchCompiled", "TorchEager")


def test_layers_of_sizes_that_no_kernel_takes_stay_whole_and_a_model_of_nothing_else_is_refused(
    as_on_a_gpu: None,
) -> None:
    sizes = {"numLayers": 1, "numHeads": 2, "embeddingDim": 32, "contextLength": 32}

    def model(**changes: int) -> Any:
        settings = ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": {**sizes, **changes}})
        return build_model(ModelShape(settings, vocabulary_size=50)).eval()

    inputs = example_inputs("DecoderLM") % 50
    (line,) = apply(model(), [quantized(ACTIVATIONS)], inputs)
    assert line.endswith("linear layers with 8-bit weights: 6"), "the head of 50 outputs is whole"
    with pytest.raises(NotRetryable, match="linear layers whose inputs and outputs are multiples of 16"):
        apply(model(embeddingDim=24), [quantized(ACTIVATIONS)], inputs)
