"""What a model needs: parameters, bytes and multiplications, each against a count by hand."""

import gc
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builders.compress import apply, dynamic, example_inputs, fresh_model, pruned, weight_only
from costopt.schema.models import LSTM, DecoderLM, ModelSettings
from costopt_trainer.compress import footprint
from costopt_trainer.compress.details import Subject, footprint_of
from costopt_trainer.compress.footprint import bytes_in_memory, count_parameters, macs_of, peak_beside, peak_of_graph
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.timing import Running
from costopt_trainer.models.onnx_model import GRAPH_FILE, OnnxModel
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


def _two_products(folder: Path) -> Path:
    """A graph (B, 256) -> (B, 16), with 4,096 values for each sample between its two products."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    widths = (256, 4096, 16)
    weights = [np.ones(pair, np.float32) for pair in itertools.pairwise(widths)]
    nodes = [
        onnx.helper.make_node("MatMul", ["inputs", "first"], ["wide"]),
        onnx.helper.make_node("Relu", ["wide"], ["positive"]),
        onnx.helper.make_node("MatMul", ["positive", "second"], ["outputs"]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])
        for name, width in (("inputs", widths[0]), ("outputs", widths[-1]))
    ]
    constants = [
        onnx.numpy_helper.from_array(each, name) for each, name in zip(weights, ("first", "second"), strict=True)
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / GRAPH_FILE)
    return folder


def test_a_graphs_peak_is_what_lies_between_its_products_and_grows_with_the_batch(tmp_path: Path) -> None:
    folder = _two_products(tmp_path)
    peaks = {count: peak_of_graph(folder, torch.ones(count, 256)) for count in (256, 1024, 4096)}
    for count, peak in peaks.items():
        between = 4 * 4096 * count
        assert between <= peak < 1.5 * between
    assert peak_of_graph(folder, torch.ones(1024, 256)) == pytest.approx(peaks[1024], rel=0.1), "and can be repeated"


class _InACycle:
    """Only the collector frees it."""

    def __init__(self, bytes_held: int) -> None:
        self.me, self.held = self, np.ones(bytes_held, np.uint8)


def test_what_the_collector_frees_meanwhile_is_not_taken_off_a_graphs_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, between = _two_products(tmp_path), 4 * 4096 * 1024
    peak_of_graph(folder, torch.ones(1024, 256))
    whole = OnnxModel.forward

    def collecting(self: OnnxModel, inputs: Tensor) -> Tensor:
        gc.collect()
        return whole(self, inputs)

    monkeypatch.setattr(OnnxModel, "forward", collecting)
    monkeypatch.setattr(footprint, "SESSIONS", 1)  # the median would hide it
    garbage = [_InACycle(3 * between)]
    gc.collect()  # so that it is old, and is not looked at for long
    garbage.clear()
    assert between <= peak_of_graph(folder, torch.ones(1024, 256)) < 1.5 * between


@pytest.mark.parametrize("moved", [-1, 1], ids=["given back", "taken"])
def test_memory_that_something_else_gives_back_or_takes_in_one_of_the_passes_changes_nothing(
    moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, between, looks = _two_products(tmp_path), 4 * 4096 * 1024, itertools.count()
    whole = footprint._anonymous_bytes
    monkeypatch.setattr(footprint, "_anonymous_bytes", lambda: whole() + moved * between * (next(looks) == 1))
    assert between <= peak_of_graph(folder, torch.ones(1024, 256)) < 1.5 * between
    assert next(looks) == 2 * footprint.SESSIONS


def test_where_the_system_does_not_tell_a_graphs_peak_it_is_not_known_and_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = OnnxModel(_two_products(tmp_path))
    monkeypatch.setattr(footprint, "_STATUS", tmp_path / "not-there/status")
    running = Running("OnnxRuntime", model, 1.0)
    with Overdue("small") as calls:
        needs, notes = footprint_of(Subject(model, 1), running, 10, torch.ones(4, 256), calls=calls, seconds=60.0)
    assert needs.peak_bytes is None
    (note,) = notes
    why = "the system does not tell what memory a process holds (No such file or directory)"
    assert note == f"peak memory under OnnxRuntime is not known: {why}"


def test_a_decoders_peak_is_at_least_its_logits() -> None:
    settings = ModelSettings(
        type="DecoderLM", decoder_lm=DecoderLM(num_layers=1, num_heads=1, embedding_dim=8, context_length=16)
    )
    model = build_model(ModelShape(settings, vocabulary_size=1000)).eval()
    assert peak_beside(model, torch.zeros(4, 16, dtype=torch.int64)) >= 4 * 4 * 16 * 1000
