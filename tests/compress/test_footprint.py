"""What a model needs: parameters, bytes and multiplications, each against a count by hand."""

import pytest
import torch
from torch import Tensor, nn

from builders.compress import apply, dynamic, example_inputs, fresh_model, pruned, weight_only
from costopt.schema.models import LSTM, DecoderLM, ModelSettings
from costopt_trainer.compress.footprint import bytes_in_memory, count_parameters, macs_of, peak_beside
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

WIDTH, LAYERS, TOKENS, VOCABULARY = 64, 2, 32, 256
"""Of the DecoderLM of builders.compress."""
DECODER_MACS = TOKENS * (LAYERS * (12 * WIDTH**2 + 2 * TOKENS * WIDTH) + WIDTH * VOCABULARY)
"""Of a sample: projections and MLP, attention over all positions, and the head."""


def test_a_quantized_weight_counts_as_one_parameter() -> None:
    model = fresh_model("DecoderLM")
    parameters, nonzero = count_parameters(model)
    assert parameters == nonzero == sum(parameter.numel() for parameter in model.parameters())
    apply(model, [weight_only()], example_inputs("DecoderLM"))
    quantized, quantized_nonzero = count_parameters(model)
    assert quantized == parameters
    assert 0.98 * nonzero < quantized_nonzero < nonzero  # the smallest weights round to zero


def test_pruned_weights_are_not_counted_as_nonzero() -> None:
    model = fresh_model("ConvNet")
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    apply(model, [pruned("Unstructured", 50)], example_inputs("ConvNet"))
    parameters, nonzero = count_parameters(model)
    biases_and_norms = 4 + 2 * (8 + 16)
    assert parameters == matrices + biases_and_norms
    assert parameters - nonzero == pytest.approx(matrices / 2 + 8 + 16, abs=2)  # the biases of batch norm start at zero


def test_bytes_in_memory_are_those_of_each_tensor_once() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False), nn.BatchNorm1d(4))
    plain = 4 * (40 + 40 + 4 * 4) + 8
    assert bytes_in_memory(model) == plain
    model[1].weight = model[0].weight
    assert bytes_in_memory(model) == plain - 4 * 40


def test_8_bit_weights_take_a_byte_each_and_a_scale_for_each_row() -> None:
    model = fresh_model("DecoderLM")
    before, matrices = bytes_in_memory(model), LAYERS * 12 * WIDTH**2 + WIDTH * VOCABULARY
    apply(model, [weight_only()], example_inputs("DecoderLM"))
    rows = LAYERS * (4 + 4 + 1) * WIDTH + VOCABULARY
    assert bytes_in_memory(model) == pytest.approx(before - 3 * matrices + 4 * rows, rel=0.01)


def test_multiplications_are_those_of_the_formula_whatever_the_weights_are_stored_in() -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    assert macs_of(model, inputs) == len(inputs) * DECODER_MACS
    apply(model, [dynamic()], inputs)
    assert macs_of(model, inputs) == len(inputs) * DECODER_MACS


def test_a_model_that_was_made_narrower_multiplies_less() -> None:
    model, inputs = fresh_model("ConvNet"), example_inputs("ConvNet")
    before = macs_of(model, inputs)
    apply(model, [pruned("Structured", 50)], inputs[:1])
    after = macs_of(model, inputs)
    assert before is not None
    assert after is not None
    assert after < 0.5 * before


def test_multiplications_of_a_recurrent_layer_are_counted() -> None:
    settings = ModelSettings(type="LSTM", lstm=LSTM(num_layers=1, embedding_dim=16, context_length=8))
    model = build_model(ModelShape(settings, vocabulary_size=32)).eval()
    tokens = torch.zeros(3, 8, dtype=torch.int64)
    assert macs_of(model, tokens) == 3 * 8 * (2 * 4 * 16 * 16 + 16 * 32)


def test_of_what_torch_does_not_count_nothing_is_told() -> None:
    assert macs_of(nn.Embedding(4, 4), torch.zeros(2, dtype=torch.int64)) is None


class _Holds(nn.Module):
    """Allocates `parts` tensors of `size` floats one after another, and keeps them if it is asked to."""

    def __init__(self, parts: int, size: int, *, keep: bool) -> None:
        super().__init__()
        self.parts, self.size, self.keep = parts, size, keep

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for _ in range(self.parts):
            part = torch.ones(self.size)
            if self.keep:
                kept.append(part)
            del part
        return x + 1


def test_peak_memory_is_what_a_pass_holds_at_one_time() -> None:
    size = 250_000
    kept = peak_beside(_Holds(4, size, keep=True), torch.zeros(4))
    one_by_one = peak_beside(_Holds(4, size, keep=False), torch.zeros(4))
    assert kept == pytest.approx(4 * 4 * size, rel=0.01)
    assert one_by_one == pytest.approx(4 * size, rel=0.01)


def test_a_decoders_peak_is_at_least_its_logits() -> None:
    settings = ModelSettings(
        type="DecoderLM", decoder_lm=DecoderLM(num_layers=1, num_heads=1, embedding_dim=8, context_length=16)
    )
    model = build_model(ModelShape(settings, vocabulary_size=1000)).eval()
    assert peak_beside(model, torch.zeros(4, 16, dtype=torch.int64)) >= 4 * 4 * 16 * 1000
