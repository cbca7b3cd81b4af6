"""A variant runs on every processor under an engine that is fast there, and gives what its weights say."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from builders.compress import apply, dynamic, example_inputs, fresh_model, pruned, weight_only
from costopt_trainer.compress import engines
from costopt_trainer.compress.engines import engines_for, kernel_library, start
from costopt_trainer.compress.measure import ENGINE_TOLERANCE

CPU = torch.device("cpu")

needs_kernels = pytest.mark.skipif(kernel_library() is None, reason="torch was built without 8-bit kernels")


def int8_model() -> torch.nn.Module:
    model = fresh_model("DecoderLM")
    apply(model, [dynamic()], example_inputs("DecoderLM"))
    return model.requires_grad_(False)  # type: ignore[no-any-return]


@needs_kernels
@pytest.mark.parametrize(
    ("dot_products", "tried"), [(True, ("TorchCompiled", "TorchQuantized")), (False, ("TorchQuantized",))]
)
def test_int8_is_compiled_only_where_the_processor_adds_up_8_bit_products(
    dot_products: bool, tried: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "has_int8_dot_products", lambda: dot_products)
    assert engines_for([pruned("Structured", 20), dynamic()], CPU) == tried


def test_what_no_engine_makes_faster_runs_as_it_is() -> None:
    assert engines_for([pruned("Structured", 20), weight_only()], CPU) == ("TorchEager",)


def test_without_any_fast_engine_int8_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_int8_dot_products", lambda: False)
    monkeypatch.setattr(engines, "kernel_library", lambda: None)
    assert engines_for([dynamic()], CPU) == ("TorchEager",)


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


def test_a_model_without_int8_layers_has_none_of_those_kernels() -> None:
    with pytest.raises(ValueError, match="must have int8 layers"):
        start("TorchQuantized", fresh_model("ConvNet"))


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
