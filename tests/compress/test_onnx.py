"""Models as ONNX graphs: made, run, and given fewer bits."""

import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builders.compress import CONV_SHAPE, apply, dynamic, example_inputs, fresh_model, pruned, quantized
from costopt.schema.compression import Calibration, Quantize, Variant
from costopt.schema.models import ModelSettings
from costopt_trainer.compress import onnx_export, onnx_form
from costopt_trainer.compress.onnx_export import NotExportable, export, runs
from costopt_trainer.compress.onnx_form import is_worth_keeping, make_graph
from costopt_trainer.compress.onnx_quantize import calibration_inputs, quantize_graph
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models import onnx_model
from costopt_trainer.models.onnx_model import GRAPH_FILE, OnnxModel, graph_files
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

pytest.importorskip("onnxruntime")


def settings_of(type_: str, **settings: Any) -> ModelSettings:
    return ModelSettings.model_validate({"type": type_, type_[0].lower() + type_[1:]: settings})


SMALL = {"numLayers": 1, "embeddingDim": 32, "contextLength": 16}
LLAMA = {"preset": "Llama", "numHeads": 4, "numKeyValueHeads": 2, "tiedEmbeddings": True, **SMALL}
SHAPES = {
    "decoder": ModelShape(
        ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": {"numHeads": 2, **SMALL}}), vocabulary_size=64
    ),
    "llama": ModelShape(ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": LLAMA}), vocabulary_size=64),
    "encoder": ModelShape(
        settings_of("Encoder", task="Classification", **SMALL), vocabulary_size=64, pad_id=63, num_classes=3
    ),
    "lstm": ModelShape(ModelSettings.model_validate({"type": "LSTM", "lstm": SMALL}), vocabulary_size=64),
    "images": CONV_SHAPE,
}


def inputs_of(name: str, count: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    if name == "images":
        return torch.randn((count, 1, 8, 8), generator=generator)
    return torch.randint(0, 60, (count, tokens), generator=generator)


def distance(output: Tensor, expected: Tensor) -> float:
    return float((output - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("encoder", "lstm") else []) for name in SHAPES]
)
def test_the_graph_of_a_model_gives_what_it_gives_for_any_number_of_samples_and_tokens(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build_model(SHAPES[name]).eval().requires_grad_(False)
    export(model, inputs_of(name, 2, 16), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [GRAPH_FILE]
    graph = OnnxModel(tmp_path)
    for count, tokens in ((2, 16), (5, 9), (1, 3)):
        inputs = inputs_of(name, count, tokens)
        assert graph.fits(inputs)
        assert distance(graph(inputs), model(inputs)) < 1e-5


class _LeavesOnnx(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j1(x)


def test_a_model_that_is_no_graph_is_refused_with_its_operators_name(tmp_path: Path) -> None:
    with pytest.raises(
        NotExportable, match=r"^cannot be exported to ONNX: there is nothing for its operator .*bessel_j1$"
    ):
        export(_LeavesOnnx(), torch.rand(2, 4), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_onnxruntime_lacks_is_named(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    node = helper.make_node("Nonesuch", ["inputs"], ["outputs"], domain="com.microsoft")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("inputs", "outputs")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("com.microsoft", 1)], ir_version=10),
         str(tmp_path / GRAPH_FILE))  # fmt: skip
    with pytest.raises(NotExportable, match="Nonesuch"):
        runs(tmp_path)


def test_what_is_not_installed_is_said_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx_model.lacking() is None
    monkeypatch.setattr(onnx_model.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else 1)
    assert onnx_model.lacking() == (
        "the package onnxruntime is not installed (extra onnx: pip install 'costopt[onnx]')"
    )


@pytest.mark.parametrize(
    ("made_of", "why"),
    [(1, "gives another output as a graph"), (None, "cannot be exported to ONNX: it has no graph")],
)
def test_a_graph_that_nobody_has_asked_for_must_compute_what_the_model_does(
    made_of: int | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(_settings: Any, _model: Any, batch: Tensor, _held_out: Any, folder: Path, **_named: Any) -> list[str]:
        if made_of is None:
            raise NotExportable("cannot be exported to ONNX: it has no graph")
        folder.mkdir()
        export(fresh_model("ConvNet", seed=made_of), batch, folder)
        return []

    monkeypatch.setattr(onnx_form, "_make", make)
    variant, folder = Variant(name="small", steps=[pruned("Structured", 20)]), tmp_path / "graph"
    with pytest.raises(NotExportable, match=why):
        make_graph(
            variant,
            fresh_model("ConvNet", seed=0),
            example_inputs("ConvNet"),
            None,
            folder,
            reduce_range=False,  # type: ignore[arg-type]
        )
    assert not folder.exists()


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may have more than 4 KB, which the system says like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize(
    ("formats", "error"), [([], NotExportable), (["Onnx"], OSError)], ids=["only tried", "asked for"]
)
def test_a_disk_without_room_for_a_graph_is_not_taken_for_a_fault_of_the_model(
    formats: Any, error: type[Exception], tmp_path: Path
) -> None:
    model = fresh_model("ConvNet").requires_grad_(False)
    variant, inputs = (
        Variant(name="small", steps=[pruned("Structured", 50)], formats=formats),
        example_inputs("ConvNet"),
    )
    with pytest.raises(error, match="File too large"):
        make_graph(variant, model, inputs, None, tmp_path / "made", reduce_range=False)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_onnxruntime_found_no_room_for_is_said_to_be_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def full(*_arguments: Any, **_named: Any) -> None:
        raise RuntimeError("INVALID_PROTOBUF : Protobuf serialization failed.")

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    monkeypatch.setattr(onnx_export.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=100))
    with pytest.raises(OSError, match="No space left on device"):
        export(fresh_model("ConvNet"), example_inputs("ConvNet"), tmp_path)


def test_8_bit_floats_are_no_graph_and_nothing_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_form, "export", lambda *_arguments: pytest.fail("it was exported"))
    variant = Variant(name="small", steps=[quantized("Float8WeightOnly")])
    with pytest.raises(NotExportable, match="has 8-bit floats, which only torch has"):
        make_graph(variant, fresh_model("DecoderLM"), example_inputs("DecoderLM"), None, tmp_path / "graph",  # type: ignore[arg-type]
                   reduce_range=False)  # fmt: skip


@pytest.mark.parametrize(
    ("formats", "weights_bytes", "graph_bytes", "kept"),
    [([], 1000, 900, True), ([], 1000, 1050, True), ([], 1000, 1051, False), ([], 0, 10**6, True),
     (["Onnx"], 1000, 10**6, True)],
)  # fmt: skip
def test_a_graph_that_is_larger_than_the_weights_by_more_than_a_few_percent_is_not_worth_keeping(
    formats: Any, weights_bytes: int, graph_bytes: int, kept: bool
) -> None:
    variant = Variant(name="small", steps=[pruned("Structured", 20)], formats=formats)
    assert is_worth_keeping(variant, weights_bytes=weights_bytes, graph_bytes=graph_bytes) == kept


def test_a_graph_of_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    export(fresh_model("ConvNet"), example_inputs("ConvNet", 4), tmp_path)
    graph = OnnxModel(tmp_path)
    whole = graph(example_inputs("ConvNet", 4))
    graph.fixed = (4, *graph.fixed[1:])
    assert torch.equal(graph(example_inputs("ConvNet", 4)[:3]), whole[:3])
    assert not graph.fits(example_inputs("ConvNet", 5))


def test_int8_weights_are_whole_in_the_graph_that_bits_are_taken_from(tmp_path: Path) -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    expected = model(inputs).detach()
    apply(model, [dynamic()], inputs)
    export(model.requires_grad_(False), inputs, tmp_path)
    assert 0 < distance(OnnxModel(tmp_path)(inputs), expected) < 0.02
    assert all(hasattr(layer.weight, "qdata") for layer in model.modules() if isinstance(layer, nn.Linear))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tensor, Tensor]]:
    """Folder, inputs and outputs of graphs that are to get fewer bits."""
    graphs = {}
    for name in ("llama", "images"):
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        model = build_model(SHAPES[name]).eval().requires_grad_(False)
        inputs = inputs_of(name, 8, 16)
        model(inputs)
        export(model, inputs, folder)
        graphs[name] = (folder, inputs, model(inputs))
    return graphs


FEWER: list[tuple[dict[str, Any], float]] = [
    ({"scheme": "Int8WeightOnly"}, 0.03),
    ({"scheme": "Int8DynamicActivation"}, 0.06),
    ({"scheme": "Int8Static"}, 0.08),
    ({"scheme": "Int8Static", "calibration": {"method": "Entropy"}}, 0.3),
    ({"scheme": "Int8Static", "calibration": {"method": "Percentile"}}, 0.1),
    ({"scheme": "Int4WeightOnly", "groupSize": 16}, 0.2),
    ({"scheme": "Int4WeightOnly", "rounding": "GPTQ", "groupSize": 16}, 0.2),
    ({"scheme": "Int8DynamicActivation", "embeddings": True}, 0.1),
    ({"scheme": "Int4WeightOnly", "embeddings": True}, 0.4),
]


@pytest.mark.parametrize(("settings", "tolerance"), FEWER, ids=str)
@pytest.mark.parametrize("name", ["llama", "images"])
def test_a_graph_of_few_bits_is_smaller_nearly_the_same_and_made_alike_each_time(
    name: str, settings: dict[str, Any], tolerance: float, whole: dict[str, tuple[Path, Tensor, Tensor]], tmp_path: Path
) -> None:
    folder, inputs, expected = whole[name]
    bytes_before = int(graph_files(folder)[GRAPH_FILE]["size"])
    calibration = [inputs[:4].numpy(), inputs[4:].numpy()]
    made = []
    for each in ("one", "other"):
        (tmp_path / each).mkdir()
        line = quantize_graph(
            folder, tmp_path / each, Quantize.model_validate(settings), reduce_range=False, calibration=calibration
        )
        assert line.startswith(f"Quantize {settings['scheme']}: ")
        made.append(tmp_path / each / GRAPH_FILE)
    assert made[0].read_bytes() == made[1].read_bytes()
    assert 0 < distance(OnnxModel(tmp_path / "one")(inputs), expected) < tolerance
    if name == "llama":
        assert made[0].stat().st_size < bytes_before


@pytest.mark.parametrize("width", [64, 72, 352])
def test_gptq_gives_more_nearly_what_the_model_gives_on_samples_than_the_nearest_weights(
    width: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(width, 48, bias=False).eval().requires_grad_(False)
    inputs = torch.randn(256, 8) @ torch.randn(8, width)  # few directions, so that weights can make up for each other
    (tmp_path / "whole").mkdir()
    export(layer, inputs, tmp_path / "whole")
    off = {}
    for rounding in ("Nearest", "GPTQ"):
        (tmp_path / rounding).mkdir()
        settings = Quantize.model_validate({"scheme": "Int4WeightOnly", "rounding": rounding})
        quantize_graph(
            tmp_path / "whole", tmp_path / rounding, settings, reduce_range=False, calibration=[inputs.numpy()]
        )
        off[rounding] = distance(OnnxModel(tmp_path / rounding)(inputs), layer(inputs))
    assert off["GPTQ"] < off["Nearest"] / 2


def test_weights_get_seven_bits_where_eight_would_overflow(
    whole: dict[str, tuple[Path, Tensor, Tensor]], tmp_path: Path
) -> None:
    import onnx

    quantize_graph(whole["llama"][0], tmp_path, Quantize(scheme="Int8DynamicActivation"), reduce_range=True)
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / GRAPH_FILE).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims
    ]
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) == 64


def test_without_training_samples_nothing_can_be_calibrated(
    whole: dict[str, tuple[Path, Tensor, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(NotRetryable, match="Int8Static needs training samples to calibrate with"):
        quantize_graph(whole["llama"][0], tmp_path, Quantize(scheme="Int8Static"), reduce_range=False)


def test_a_graph_without_matrices_is_refused(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    export(nn.ReLU().eval(), torch.rand(2, 4), tmp_path / "whole")
    with pytest.raises(NotRetryable, match="needs a model with at least one linear layer"):
        quantize_graph(tmp_path / "whole", tmp_path, Quantize(scheme="Int4WeightOnly"), reduce_range=False)


class _Numbered:
    """Data whose samples are their numbers."""

    num_train_samples = 10

    def train_batch(self, indices: Any) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(indices), torch.zeros(len(indices))


@pytest.mark.parametrize(("wanted", "batches"), [(8, [4, 4]), (6, [4]), (3, [3]), (99, [4, 4])])
def test_samples_to_calibrate_with_are_drawn_once_each_by_the_seed_in_whole_batches(
    wanted: int, batches: list[int]
) -> None:
    def drawn(seed: int) -> list[list[int]]:
        data: Any = _Numbered()
        return [batch.tolist() for batch in calibration_inputs(data, Calibration(samples=wanted, seed=seed), 4)]

    assert [len(batch) for batch in drawn(1)] == batches
    flat = [sample for batch in drawn(1) for sample in batch]
    assert len(set(flat)) == len(flat)
    assert drawn(1) == drawn(1) != drawn(2)


def test_a_graph_takes_numbers_too_small_for_a_normal_one_for_zeros_and_its_thread_does_not(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    if not torch.set_flush_denormal(False):
        pytest.skip("this processor has no such mode")
    export(Doubled(), torch.ones(2, 3), tmp_path)
    graph = OnnxModel(tmp_path)
    tiny = torch.full((2, 3), 1e-39)
    assert (2 * tiny > 0).all()
    assert (graph(tiny) == 0).all()
    assert (2 * tiny > 0).all()
