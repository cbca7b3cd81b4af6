"""A variant runs on every processor under an engine that is fast there, and gives what its weights say."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.compress import apply, dynamic, example_inputs, fresh_model, pruned, quantized, weight_only
from costopt.schema.compression import FineTune, Measure, ShareWeights, Step, Variant
from costopt.schema.variant_report import EngineName
from costopt_trainer.compress import engines
from costopt_trainer.compress.engines import (
    device_for,
    engines_beside,
    engines_for,
    kernel_library,
    named_engines,
    start,
)
from costopt_trainer.compress.measure import ENGINE_TOLERANCE
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import GraphScratch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def variant(*steps: Step, **settings: Any) -> Variant:
    return Variant(name="small", steps=list(steps), **settings)


needs_kernels = pytest.mark.skipif(kernel_library() is None, reason="torch was built without 8-bit kernels")


def int8_model() -> torch.nn.Module:
    model = fresh_model("DecoderLM")
    apply(model, [dynamic()], example_inputs("DecoderLM"))
    return model.requires_grad_(False)  # type: ignore[no-any-return]


@needs_kernels
@pytest.mark.parametrize(
    ("dot_products", "tried"),
    [
        (True, ("TorchCompiled", "TorchQuantized", "OnnxRuntime", "TorchEager")),
        (False, ("TorchQuantized", "OnnxRuntime")),
    ],
)
def test_int8_is_compiled_only_where_the_processor_adds_up_8_bit_products(
    dot_products: bool, tried: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "has_int8_dot_products", lambda: dot_products)
    monkeypatch.setattr(engines, "lacking", lambda: None)
    assert engines_for(variant(pruned("Structured", 20), dynamic()), CPU) == tried


@pytest.mark.parametrize("step", [dynamic(), weight_only()])
def test_without_any_fast_engine_a_variant_still_runs_and_it_is_said_what_is_missing(
    step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "has_int8_dot_products", lambda: False)
    monkeypatch.setattr(engines, "kernel_library", lambda: None)
    monkeypatch.setattr(engines, "lacking", lambda: "the package onnx is not installed")
    assert engines_for(variant(step), CPU) == ("TorchEager",)
    assert capsys.readouterr().out == "small: OnnxRuntime is left out: the package onnx is not installed\n"


@pytest.mark.parametrize(
    "steps",
    [
        [pruned("Structured", 20)],
        [pruned("Unstructured", 20)],
        [weight_only()],
        [Step(type="FineTune", fine_tune=FineTune(steps=1))],
        [Step(type="ShareWeights", share_weights=ShareWeights(cluster_bits=4))],
    ],
)
def test_every_other_variant_is_tried_as_it_is_and_as_a_graph(
    steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "lacking", lambda: None)
    assert engines_for(variant(*steps), CPU) == ("TorchEager", "OnnxRuntime")
    assert engines_for(variant(*steps), GPU) == ("TorchCompiled", "TorchEager")


def test_where_little_time_may_be_taken_no_graph_is_made_that_nobody_has_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "lacking", lambda: None)
    short = {"measure_seconds": engines.GRAPH_SECONDS - 1}
    assert engines_for(variant(weight_only(), **short), CPU) == ("TorchEager",)
    why = "making graphs takes seconds, and measureSeconds is less than 20"
    assert capsys.readouterr().out == f"small: OnnxRuntime is left out: {why}\n"
    named = Measure(engines=["OnnxRuntime"])
    assert engines_for(variant(weight_only(), measure=named, **short), CPU) == ("TorchEager", "OnnxRuntime")
    assert "OnnxRuntime" in engines_for(variant(dynamic(), **short), CPU)
    assert engines_for(variant(weight_only(), measure_seconds=engines.GRAPH_SECONDS), CPU)[1] == "OnnxRuntime"


def test_engines_that_the_user_names_are_tried_beside_and_what_is_to_be_a_graph_is_judged_as_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "lacking", lambda: None)
    names: list[EngineName] = ["TorchCompiled", "TorchEager", "OnnxRuntime"]
    named = {"measure": Measure(engines=names)}
    assert engines_for(variant(weight_only(), **named), CPU) == ("TorchEager", "OnnxRuntime", "TorchCompiled")
    assert engines_for(variant(weight_only(), formats=["Onnx"], **named), CPU) == ("OnnxRuntime",)
    assert named_engines(variant(weight_only(), formats=["Onnx"], **named), CPU) == tuple(names)
    assert named_engines(variant(weight_only()), CPU) == ()
    assert capsys.readouterr().out == ""
    assert engines_for(variant(weight_only(), **named), GPU) == ("TorchCompiled", "TorchEager")
    assert capsys.readouterr().out.startswith("small: OnnxRuntime is left out: a graph is for a CPU")


@pytest.mark.parametrize("scheme", ["Int8Static", "Int4WeightOnly"])
def test_what_exists_only_as_onnx_runs_under_onnxruntime(scheme: str) -> None:
    assert engines_for(variant(quantized(scheme)), CPU) == ("OnnxRuntime",)


def test_a_variant_that_is_to_be_onnx_is_measured_as_that() -> None:
    assert engines_for(variant(pruned("Structured", 20), formats=["Onnx"]), CPU) == ("OnnxRuntime",)
    assert engines_for(variant(dynamic(), formats=["Onnx"]), CPU) == ("OnnxRuntime",)


@pytest.mark.parametrize(
    ("of_variant", "of_model"),
    [
        (("TorchEager",), ("TorchEager",)),
        (("TorchEager", "OnnxRuntime"), ("TorchEager", "OnnxRuntime")),
        (("TorchQuantized",), ("TorchEager", "OnnxRuntime")),
        (("OnnxRuntime",), ("TorchEager", "OnnxRuntime")),
        (("TorchCompiled", "TorchQuantized"), ("TorchEager", "TorchCompiled", "OnnxRuntime")),
    ],
)
def test_the_model_beside_a_variant_is_given_every_engine_that_may_be_its_fastest(
    of_variant: tuple[EngineName, ...], of_model: tuple[EngineName, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "lacking", lambda: None)
    assert engines_beside(of_variant, CPU) == of_model
    monkeypatch.setattr(engines, "lacking", lambda: "the package onnx is not installed")
    able = tuple(engine for engine in of_model if engine != "OnnxRuntime" or engine in of_variant)
    assert engines_beside(of_variant, CPU) == able


@pytest.mark.parametrize("gpu", [True, False])
def test_a_variant_is_measured_on_a_gpu_where_there_is_one_unless_it_is_for_a_cpu(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert device_for(variant(dynamic())).type == ("cuda" if gpu else "cpu")
    assert device_for(variant(dynamic(), target="CPU")).type == "cpu"
    assert device_for(variant(quantized("Int4WeightOnly"))).type == "cpu"
    assert engines_for(variant(dynamic()), GPU) == ("TorchCompiled", "TorchEager")


def test_a_variant_for_a_gpu_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotRetryable, match="variant small has target GPU, but its pod has none: ask for one in"):
        device_for(variant(dynamic(), target="GPU"))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@needs_kernels
@pytest.mark.parametrize("dot_products", [True, False])
def test_torchs_own_kernels_compute_with_the_same_int8_weights(
    dot_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "has_int8_dot_products", lambda: dot_products)
    model, inputs = int8_model(), example_inputs("DecoderLM", 8)
    library = torch.backends.quantized.engine
    expected = model(inputs)
    weights = copy.deepcopy(model.state_dict())
    forward = start("TorchQuantized", model)
    assert distance(forward(inputs), expected) < ENGINE_TOLERANCE  # how far it is depends on the processor
    assert torch.equal(forward(inputs), forward(inputs))
    assert torch.backends.quantized.engine == library
    assert all(torch.equal(model.state_dict()[name].qdata, weights[name].qdata) for name in weights if "mlp" in name
               and "norm" not in name)  # fmt: skip


@pytest.mark.parametrize("steps", [[], [quantized("Float8WeightOnly")]], ids=["whole", "8-bit floats"])
def test_a_model_without_int8_layers_has_none_of_those_kernels(steps: list[Step]) -> None:
    model = fresh_model("DecoderLM")
    apply(model, steps, example_inputs("DecoderLM"))
    with pytest.raises(ValueError, match="must have int8 layers"):
        start("TorchQuantized", model.requires_grad_(False))


AVX2_ONLY = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""FBGEMM, oneDNN and torch then take no newer instructions than AVX2. What torch says of the processor stays."""

PROGRAM = """
import torch
from builders.compress import apply, dynamic, example_inputs, fresh_model
from costopt_trainer.compress import engines
engines.has_int8_dot_products = lambda: False
model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM", 8)
with torch.no_grad():
    expected = model(inputs)
    apply(model, [dynamic()], inputs)
    output = engines.start("TorchQuantized", model)(inputs)
print(torch.backends.cpu.get_cpu_capability(), float((output - expected).norm() / expected.norm()))
"""


@needs_kernels
@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx2", False), reason="needs AVX2")
def test_with_avx2_alone_torchs_own_kernels_give_nearly_the_models_output() -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **AVX2_ONLY, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    capability, difference = answer.stdout.split()[-2:]
    assert capability == "AVX2"
    assert float(difference) < ENGINE_TOLERANCE


def test_a_model_becomes_a_graph_at_its_first_input_and_again_for_one_that_does_not_fit() -> None:
    pytest.importorskip("onnxruntime")
    model = fresh_model("ConvNet").requires_grad_(False)
    forward: Any = start("OnnxRuntime", model)
    for count in (4, 6):
        inputs = example_inputs("ConvNet", count)
        assert distance(forward(inputs), model(inputs)) < 1e-5
    forward._graph.fixed = (4, *forward._graph.fixed[1:])
    before = forward._graph
    assert distance(forward(inputs), model(inputs)) < 1e-5
    assert forward._graph is not before


def test_a_graph_that_is_only_run_is_made_where_the_model_says(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = fresh_model("ConvNet").requires_grad_(False)
    model.graph_scratch = GraphScratch(tmp_path / "scratch")
    forward: Any = start("OnnxRuntime", model)
    inputs = example_inputs("ConvNet", 4)
    assert distance(forward(inputs), model(inputs)) < 1e-5
    assert forward.graph_for(inputs).folder == tmp_path / "scratch"
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["model.onnx"]


def test_the_graph_of_a_model_is_made_once_for_all_copies_that_have_a_place_for_it_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    made, export = [], engines.export

    def counting(model: Any, inputs: torch.Tensor, folder: Path) -> None:
        made.append(len(inputs))
        export(model, inputs, folder)

    monkeypatch.setattr(engines, "export", counting)
    scratch, inputs = GraphScratch(tmp_path / "scratch"), example_inputs("ConvNet", 4)
    outputs, seconds = [], []
    for _ in range(3):
        model = fresh_model("ConvNet").requires_grad_(False)
        model.graph_scratch = scratch
        outputs.append(start("OnnxRuntime", model)(inputs))
        seconds.append(model.graph_seconds)
    assert made == [4]
    assert torch.equal(outputs[0], outputs[2])
    assert seconds == [0.0, scratch.seconds, scratch.seconds], "which the time to compile is told with"


def test_a_graph_in_that_place_is_made_anew_for_what_does_not_fit_it_and_where_an_earlier_process_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    scratch = GraphScratch(tmp_path / "scratch")
    scratch.folder.mkdir()
    (scratch.folder / "model.onnx").write_bytes(b"half a graph")
    model = fresh_model("ConvNet").requires_grad_(False)
    model.graph_scratch = scratch
    start("OnnxRuntime", model)(example_inputs("ConvNet", 4))
    assert scratch.seconds is not None
    before = scratch.seconds
    inputs = example_inputs("ConvNet", 6)
    monkeypatch.setattr(engines.OnnxModel, "fits", lambda _graph, _inputs: False)
    assert distance(start("OnnxRuntime", model)(inputs), model(inputs)) < 1e-5
    assert scratch.seconds != before
    assert model.graph_seconds == 0.0
