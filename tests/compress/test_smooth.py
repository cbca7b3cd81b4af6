"""SmoothQuant: the model computes the same with flatter activations, and 8 bits cost it less."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders.compress import LM_SHAPE, apply, dynamic, example_inputs, fresh_model, quantized
from builders.hugging_face import VOCABULARY, from_scratch
from builders.steps import StepStage
from costopt.schema.compression import Quantize
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.onnx_export import export
from costopt_trainer.compress.onnx_quantize import quantize_graph
from costopt_trainer.compress.quantize import linear_layers
from costopt_trainer.compress.smooth import pairs_of, smooth
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.onnx_model import OnnxModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

TOKENS = torch.randint(2, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
LLAMA = {"preset": "Llama", "numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 16}
ENCODER = {"task": "Classification", "numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 16}


def shape_of(name: str, folder: Path) -> ModelShape:
    if name == "DecoderLM":
        return LM_SHAPE
    if name == "Llama":
        return ModelShape(ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": LLAMA}), VOCABULARY)
    if name == "Encoder":
        settings = ModelSettings.model_validate({"type": "Encoder", "encoder": ENCODER})
        return ModelShape(settings, vocabulary_size=VOCABULARY, pad_id=1, num_classes=3)
    return from_scratch(folder, name)


def made(shape: ModelShape) -> Any:
    torch.manual_seed(1)
    model = build_model(shape).eval().requires_grad_(False)
    for name, module in model.named_modules():  # norms begin as ones, which hides what is forgotten of them
        if name.endswith(("norm", "Norm")) or ".ln_" in name:
            module.weight.uniform_(0.5, 2)
            if getattr(module, "bias", None) is not None:
                module.bias.uniform_(-1, 1)
    return model


def with_outliers(model: nn.Module, inputs: Tensor) -> None:
    """Three channels of each norm become 60 times larger, which the layers that read them make up for."""
    for pair in pairs_of(model, linear_layers(model).values(), inputs):
        channels = torch.tensor([3, 11, 17])
        for tensor in pair.norm.parameters():
            tensor[channels] *= 60
        for layer in pair.readers:
            layer.weight[:, channels] /= 60


def distance(output: Tensor, expected: Tensor) -> float:
    return float(((output - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize(
    ("name", "norms"),
    # Two of each layer and the last one; the head of qwen2 is the embedding, experts of mixtral are no linear layers.
    [("DecoderLM", 5), ("Llama", 5), ("Encoder", 4), ("llama", 5), ("qwen2", 4), ("phi3", 5), ("mixtral", 3)],
)
def test_norms_of_any_family_are_smoothed_and_the_model_computes_the_same(
    name: str, norms: int, tmp_path: Path
) -> None:
    model = made(shape_of(name, tmp_path))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    expected = model(TOKENS % 256)
    told = smooth(model, linear_layers(model), 0.5, TOKENS % 256, [TOKENS % 256])
    assert told == f"activations of {norms} norms smoothed"
    assert distance(model(TOKENS % 256), expected) < 1e-5
    changed = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])]
    assert len(changed) >= 2 * norms


@pytest.mark.parametrize("alpha", [0, 0.25, 1])
def test_factors_are_those_of_the_paper(alpha: float) -> None:
    model = made(LM_SHAPE)
    inputs = example_inputs("DecoderLM")
    pairs = pairs_of(model, linear_layers(model).values(), inputs)
    seen: dict[nn.Module, Tensor] = {}
    for pair in pairs:
        pair.norm.register_forward_hook(lambda norm, _given, output: seen.__setitem__(norm, output))
    model(inputs)
    ranges = {pair.norm: seen[pair.norm].abs().flatten(0, 1).amax(0) for pair in pairs}
    weights = {pair.norm: torch.cat([layer.weight.clone() for layer in pair.readers]) for pair in pairs}
    smooth(model, linear_layers(model), alpha, inputs, [inputs[:1], inputs[1:]])
    for pair in pairs:
        factors = ranges[pair.norm] ** alpha / weights[pair.norm].abs().amax(0) ** (1 - alpha)
        now = torch.cat([layer.weight for layer in pair.readers])
        torch.testing.assert_close(now, weights[pair.norm] * factors, rtol=1e-4, atol=1e-7)
        after = seen[pair.norm].abs().flatten(0, 1).amax(0)
        torch.testing.assert_close(after, ranges[pair.norm] / factors, rtol=1e-3, atol=1e-5)


def test_where_a_norm_has_outliers_8_bit_activations_cost_less_once_they_are_smoothed(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    inputs, off = example_inputs("DecoderLM", 8), {}
    for name in ("as it is", "smoothed"):
        model = made(LM_SHAPE)
        with_outliers(model, inputs)
        expected = model(inputs)
        if name == "smoothed":
            smooth(model, linear_layers(model), 0.5, inputs[:1], [inputs])
        folders = [tmp_path / f"{name} {kind}" for kind in ("whole", "static")]
        for folder in folders:
            folder.mkdir()
        export(model, inputs, folders[0])
        quantize_graph(
            *folders,
            Quantize(scheme="Int8Static"),
            reduce_range=False,
            calibration=[inputs[:4].numpy(), inputs[4:].numpy()],
        )
        static = distance(OnnxModel(folders[1])(inputs), expected)
        apply(model, [dynamic()], inputs)
        off[name] = distance(model(inputs), expected), static
    for whole, smoothed in zip(off["as it is"], off["smoothed"], strict=True):
        assert smoothed < whole / 3


class _Added(nn.Module):
    """One norm that a linear layer reads, and another whose output is also added to something."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.read, self.also = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(self.first(x))
        given: Tensor = self.second(x)
        return self.also(given) + given


def test_a_norm_that_something_else_reads_too_stays_as_it_is_to_the_bit() -> None:
    torch.manual_seed(0)
    model, x = _Added().eval(), torch.randn(4, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert smooth(model, linear_layers(model), 0.5, x, [x]) == "activations of 1 norms smoothed"
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["first.weight", "read.weight"], "a bias of zeros stays one"


def test_a_model_without_such_a_norm_is_refused_in_a_sentence() -> None:
    model = fresh_model("ConvNet")
    with pytest.raises(NotRetryable, match="it has no norm that linear layers alone read") as error:
        smooth(model, linear_layers(model), 0.5, example_inputs("ConvNet"), [])
    assert error.value.reason == "InvalidSettings"


def test_without_training_samples_nothing_can_be_smoothed() -> None:
    step = quantized("Int8DynamicActivation", smooth_percent=50)
    with pytest.raises(NotRetryable, match="smoothPercent needs training samples to calibrate with") as error:
        apply(fresh_model("DecoderLM"), [step], example_inputs("DecoderLM"))
    assert error.value.reason == "InvalidSettings"


def test_the_step_smooths_on_samples_that_its_seed_draws_before_it_quantizes(tmp_path: Path) -> None:
    stage = StepStage.made("DecoderLM", tmp_path)
    inputs = example_inputs("DecoderLM")

    def output(seed: int | None) -> Tensor:
        smoothing = {} if seed is None else {"smooth_percent": 60, "calibration": {"samples": 12, "seed": seed}}
        model, (line,) = stage.applied(quantized("Int8DynamicActivation", **smoothing))
        assert ("activations of 5 norms smoothed on 8 training samples" in line) == (seed is not None)
        outputs: Tensor = model(inputs).detach()
        return outputs

    plain, first, again, other = (output(seed) for seed in (None, 1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    expected = stage.model()(inputs).detach()
    assert 0 < distance(first, expected) < 2 * distance(plain, expected)
