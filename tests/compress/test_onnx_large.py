"""ONNX graphs whose weights do not fit in one file: they lie in a second one beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from builders.compress import (
    example_inputs,
    fresh_model,
    pruned,
    quantized,
    train_stage,
)
from builders.on_cluster import at_home, command
from costopt.artifacts import read_manifest
from costopt.schema.compression import Quantize, Step, Variant
from costopt.schema.models import ModelSettings
from costopt_trainer.compress import measure, onnx_export, run
from costopt_trainer.compress.onnx_export import export
from costopt_trainer.compress.onnx_quantize import quantize_graph, store_ties_once
from costopt_trainer.models.onnx_model import DATA_FILE, GRAPH_FILE, OnnxModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

BOTH = [GRAPH_FILE, DATA_FILE]


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file may hold so little that any model needs two."""
    monkeypatch.setattr(onnx_export, "PROTOBUF_BYTES", 1000)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def off(output: torch.Tensor, expected: torch.Tensor) -> float:
    return float((output - expected).norm() / expected.norm())


FEWER: list[tuple[dict[str, Any], float]] = [
    ({"scheme": "Int8WeightOnly"}, 0.03),
    ({"scheme": "Int8DynamicActivation", "embeddings": True}, 0.1),
    ({"scheme": "Int8Static"}, 0.1),
    ({"scheme": "Int4WeightOnly"}, 0.3),
    ({"scheme": "Int4WeightOnly", "rounding": "GPTQ"}, 0.3),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """Folder, inputs and outputs of a graph in two files."""
    folder, inputs = tmp_path_factory.mktemp("whole"), example_inputs("DecoderLM", 4)
    model = fresh_model("DecoderLM").requires_grad_(False)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(onnx_export, "PROTOBUF_BYTES", 1000)
        export(model, inputs, folder)
    return folder, inputs, model(inputs)


def test_large_weights_lie_beside_their_graph(whole: tuple[Path, torch.Tensor, torch.Tensor]) -> None:
    folder, inputs, expected = whole
    assert files_of(folder) == BOTH
    assert (folder / GRAPH_FILE).stat().st_size < (folder / DATA_FILE).stat().st_size
    assert off(OnnxModel(folder)(inputs), expected) < 1e-5


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize(("settings", "tolerance"), FEWER, ids=str)
def test_they_do_in_few_bits_as_well(
    settings: dict[str, Any], tolerance: float, whole: tuple[Path, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    folder, inputs, expected = whole
    quantize_graph(
        folder, tmp_path, Quantize.model_validate(settings), reduce_range=False, calibration=[inputs.numpy()] * 2
    )
    assert files_of(tmp_path) == BOTH
    assert 0 < off(OnnxModel(tmp_path)(inputs), expected) < tolerance
    sizes = [sum(path.stat().st_size for path in each.iterdir()) for each in (folder, tmp_path)]
    assert sizes[1] < sizes[0]


def test_a_head_that_is_the_embedding_counts_twice_until_it_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied = {"numLayers": 1, "embeddingDim": 32, "contextLength": 16, "numHeads": 2, "tiedEmbeddings": True}
    settings = ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": tied})
    model = build_model(ModelShape(settings, vocabulary_size=1000)).eval().requires_grad_(False)
    once = sum(parameter.nbytes for parameter in model.parameters())
    inputs = torch.randint(0, 1000, (2, 8))
    monkeypatch.setattr(onnx_export, "PROTOBUF_BYTES", once + 20_000)  # one embedding fits, two do not
    export(model, inputs, tmp_path)
    assert files_of(tmp_path) == BOTH
    store_ties_once(tmp_path)
    assert files_of(tmp_path) == [GRAPH_FILE]
    assert off(OnnxModel(tmp_path)(inputs), model(inputs)) < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("step", [pruned("Unstructured", 30), quantized("Int4WeightOnly")], ids=lambda step: step.type)
def test_a_variant_in_two_files_is_listed_verified_and_tried_like_any_other(
    step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    recipe = train_stage("DecoderLM", tmp_path, steps=5)
    report = run.make_variant(Variant(name="small", steps=[step], formats=["Onnx"]), recipe, tmp_path)
    assert report is not None
    folder = tmp_path / report.artifact
    if step.type == "Prune":
        assert "small: its size is that of the ONNX graph, which holds zeros" in capsys.readouterr().out
        assert (folder / "model.safetensors").stat().st_size < report.measured.size_bytes
    assert report.measured.size_bytes == sum((folder / name).stat().st_size for name in BOTH)
    manifest = read_manifest(folder)
    assert {file.path for file in manifest.files} == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert "Onnx" in manifest.formats

    at_home(monkeypatch, tmp_path, None)
    costopt = command(monkeypatch, capsys)
    assert costopt("artifacts", str(folder), "--verify").code == 0
    if step.type == "Quantize":  # its graph is all that it has
        tried = costopt("try", str(folder), "abc", "--max-tokens", "3")
        assert (tried.code, tried.out[:3]) == (0, "abc")
    data = bytearray((folder / DATA_FILE).read_bytes())
    data[len(data) // 2] ^= 64
    (folder / DATA_FILE).write_bytes(data)
    changed = costopt("artifacts", str(folder), "--verify")
    assert (changed.code, f"another {DATA_FILE}" in changed.err + changed.out) == (1, True)
    if step.type == "Quantize":
        refused = costopt("try", str(folder), "abc")
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.splitlines()[-1].endswith("its model.onnx is not the one that config.json was written for")
