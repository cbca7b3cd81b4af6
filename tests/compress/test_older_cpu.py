"""On a processor with AVX2 alone int8 runs, and gives what it gives on newer ones: this one, with the rest hidden.

Products of 8 bits are added in 16 there, which overflow, so weights have 7 bits, or the engine takes another way.
"""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from builders.cli import program
from builders.compress import LM_SHAPE, apply, dynamic, example_inputs, fresh_model, train_stage
from builders.older_cpu import UNAVAILABLE, WRAPPER, on_older_cpu, python_on_older_cpu
from costopt.schema.compression import Quantize, Variant
from costopt.schema.variant_details import VariantReport
from costopt_trainer.compress import run
from costopt_trainer.compress.engines import engines_for, start
from costopt_trainer.compress.onnx_export import export
from costopt_trainer.compress.onnx_quantize import quantize_graph
from costopt_trainer.compress.verify import distance_of, verify_in_fresh_process, write_probe
from costopt_trainer.instructions import has_int8_dot_products
from costopt_trainer.models.artifact import load_graph, load_model, save_model
from costopt_trainer.models.onnx_model import GRAPH_FILE, OnnxModel

TOLERANCE = 0.05
"""Between the outputs of the same weights: activations have 8 bits or 7, and these are rounded in other places."""

CAPABLE = "import torch; print(*(name for name, able in torch.cpu.get_capabilities().items() if able is True))"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CAPABLE!r}], check=True)"
BLOCKED = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals)); {CAPABLE}"
FAULT = "import ctypes; ctypes.string_at(0)"
HANDLED = """
import os, signal
signal.signal(signal.SIGSEGV, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGSEGV)
signal.signal(signal.SIGSEGV, signal.SIG_IGN)
os.kill(os.getpid(), signal.SIGSEGV)
import torch
print(torch.cpu.get_capabilities()["avx512_f"], signal.getsignal(signal.SIGSEGV) is signal.SIG_IGN)
"""


@pytest.mark.parametrize("words", [CAPABLE, CHILD, BLOCKED], ids=["itself", "child", "signals blocked"])
def test_the_program_and_all_that_it_starts_see_avx2_alone(words: str) -> None:
    seen = python_on_older_cpu(words).split()
    assert "avx2" in seen
    assert [name for name in seen if name.startswith(("avx512", "amx")) or "vnni" in name] == []


def test_a_real_fault_ends_the_program_as_it_always_does() -> None:
    assert on_older_cpu(sys.executable, "-c", FAULT).returncode == -signal.SIGSEGV
    told = on_older_cpu(sys.executable, "-X", "faulthandler", "-c", FAULT)
    assert told.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in told.stderr
    assert "in string_at" in told.stderr


def test_a_program_that_handles_such_faults_itself_goes_on_to_do_so() -> None:
    assert python_on_older_cpu(HANDLED).splitlines() == ["handled", "False True"]


def test_without_a_compiler_one_sentence_says_what_is_needed(tmp_path: Path) -> None:
    on_older_cpu("true")
    copy = shutil.copytree(WRAPPER, tmp_path / "benchmarks" / "older_cpu")
    done = subprocess.run(
        [sys.executable, copy, "true"], env={"CC": "nosuch"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == UNAVAILABLE
    assert done.stderr == (
        "cannot run it as on an older processor: that needs a C compiler (cc, or the one that CC names)\n"
    )
    assert not (tmp_path / ".cache").exists()


# --- int8 across processors


@dataclass(frozen=True)
class Older:
    """What a process on the older processor has made and found."""

    facts: dict[str, Any]
    folder: Path
    """`here` and `there`: artifacts made by this process and by that one."""

    def outputs(self, made: str) -> dict[str, Tensor]:
        """Of the artifact made `here` or `there`, by that process, for each engine."""
        return load_file(self.folder / f"outputs-{made}")


def make(folder: Path) -> None:
    """An int8 artifact with weights and a graph, as this processor has them."""
    inputs, settings = example_inputs("DecoderLM"), Quantize(scheme="Int8DynamicActivation")
    graphs = {name: folder.parent / f"{folder.name}-{name}" for name in ("whole", "few")}
    for each in graphs.values():
        each.mkdir()
    export(fresh_model("DecoderLM").requires_grad_(False), inputs, graphs["whole"])
    quantize_graph(graphs["whole"], graphs["few"], settings, reduce_range=not has_int8_dot_products())
    model = fresh_model("DecoderLM")
    apply(model, [dynamic()], inputs)
    save_model(folder, model, LM_SHAPE, steps=[dynamic()], graph=graphs["few"])


def outputs_of(folder: Path) -> dict[str, Tensor]:
    """By engine."""
    inputs, model = example_inputs("DecoderLM", 8), load_model(folder)
    with torch.no_grad():
        kernels, graph = start("TorchQuantized", model)(inputs), load_graph(folder)(inputs)
        return {"TorchEager": model(inputs), "TorchQuantized": kernels, "OnnxRuntime": graph}


def sum_of_products(folder: Path) -> list[int]:
    """64 products of 255 and 127, added up by onnxruntime as it is, and by an OnnxModel."""
    import numpy as np
    import onnx
    import onnxruntime

    one = onnx.helper.make_node("MatMulInteger", ["inputs", "weights"], ["outputs"])
    given = onnx.helper.make_tensor_value_info("inputs", onnx.TensorProto.UINT8, ["rows", 64])
    found = onnx.helper.make_tensor_value_info("outputs", onnx.TensorProto.INT32, ["rows", 16])
    weights = onnx.numpy_helper.from_array(np.full((64, 16), 127, np.int8), "weights")
    graph = onnx.helper.make_graph([one], "products", [given], [found], [weights])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), folder / GRAPH_FILE)
    inputs = torch.full((1, 64), 255, dtype=torch.uint8)
    plain = onnxruntime.InferenceSession(folder / GRAPH_FILE, providers=["CPUExecutionProvider"])
    of_each = plain.run(None, {"inputs": inputs.numpy()})[0], OnnxModel(folder)(inputs)
    return [int(outputs[0, 0]) for outputs in of_each]


def there(folder: Path) -> None:
    """In the other process: make an artifact, verify it as a variant is, and run both."""
    make(folder / "there")
    for name in ("here", "there"):
        save_file(outputs_of(folder / name), folder / f"outputs-{name}")
    write_probe(
        folder / "probe", load_model(folder / "there"), example_inputs("DecoderLM"), load_graph(folder / "there")
    )
    verify_in_fresh_process(folder / "there", folder / "probe")
    facts = {
        "engines": engines_for(Variant(name="small", steps=[dynamic()]), torch.device("cpu")),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "sums": sum_of_products(folder),
    }
    print(json.dumps(facts))


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Older:
    pytest.importorskip("onnxruntime")
    on_older_cpu("true")
    folder = tmp_path_factory.mktemp("older")
    make(folder / "here")
    told = there_runs("there", folder)
    return Older(json.loads(told.splitlines()[-1]), folder)


def there_runs(function: str, folder: Path) -> str:
    """What one of this file's functions of a folder prints in a process there."""
    ours = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_older_cpu as test; "
    return python_on_older_cpu(f"{ours}test.{function}(test.Path({str(folder)!r}))")


def test_nothing_is_compiled_there_and_torch_and_onnxruntime_take_their_code_for_avx2(older: Older) -> None:
    assert older.facts["engines"] == ["TorchQuantized", "OnnxRuntime"]
    assert older.facts["kernels"] == "AVX2"
    # The sum of two products that does not fit into 16 bits is cut off there: 64 of them are 32 of the largest number.
    assert older.facts["sums"][0] == 32 * (2**15 - 1) < 64 * 255 * 127


def test_a_graph_with_weights_of_8_full_bits_does_not_overflow_there(older: Older) -> None:
    assert older.facts["sums"][1] == 64 * 255 * 127


@pytest.mark.parametrize("made", ["here", "there"])
@pytest.mark.parametrize("engine", ["TorchEager", "TorchQuantized", "OnnxRuntime"])
def test_an_artifact_gives_the_same_on_either_processor(older: Older, made: str, engine: str) -> None:
    assert distance_of(older.outputs(made)[engine], outputs_of(older.folder / made)[engine]) < TOLERANCE


@pytest.mark.parametrize("engine", ["TorchQuantized", "OnnxRuntime"])
def test_what_is_made_there_gives_nearly_what_its_weights_say(older: Older, engine: str) -> None:
    outputs = older.outputs("there")
    whole = fresh_model("DecoderLM")(example_inputs("DecoderLM", 8)).detach()
    assert distance_of(outputs[engine], outputs["TorchEager"]) < TOLERANCE
    assert distance_of(outputs[engine], whole) < TOLERANCE


def test_a_model_that_was_made_here_goes_on_with_a_text_there(older: Older) -> None:
    done = on_older_cpu(*program("try", str(older.folder / "here"), "import", "--max-tokens=4", "--output=json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"] == "Complete"


def whole_variant(storage: Path) -> None:
    """In the other process."""
    variant = Variant(name="small", steps=[dynamic()])
    made = run.make_variant(variant, train_stage("DecoderLM", storage), storage)
    assert made is not None
    print(made.model_dump_json())


@pytest.mark.slow
def test_a_variant_is_made_verified_and_measured_there_and_nothing_is_compiled(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    on_older_cpu("true")
    told = there_runs("whole_variant", tmp_path).splitlines()
    report = VariantReport.model_validate_json(told[-1])
    assert report.reloaded
    assert report.measured.engine in ("TorchQuantized", "OnnxRuntime")
    assert report.baseline.engine in ("TorchEager", "OnnxRuntime")
    assert report.details is not None
    sides = report.details.variant, report.details.baseline
    assert all(timing.engine != "TorchCompiled" for side in sides for timing in side.timings)
