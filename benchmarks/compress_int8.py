"""Models of few bits under each engine, beside FP32 and beside onnxruntime used by hand.

    make bench-compress, or: PYTHONPATH=.:trainer python benchmarks/compress_int8.py [--threads 2] [--rounds 40]
    the same as on a processor with AVX2 alone: ... python benchmarks/older_cpu python benchmarks/compress_int8.py

The models are the quickstart's DecoderLM on a micro-batch of 16 samples of 128 bytes, and a ConvNet on 32 images of 32
by 32. "By hand" is what onnxruntime's own guide says: torch.onnx.export, quant_pre_process, then quantize_dynamic or
quantize_static, and a session, with the defaults. All forms of a model run in turn in one process. A time is the median
of the processor's time, which other work on the machine changes little; a ratio is of medians; the difference is that
of outputs, relative to FP32's. Weights are random: times do not depend on them, and what quality is lost is measured by
jobs.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from costopt.schema.compression import Quantize, Step
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.engines import start
from costopt_trainer.compress.onnx_export import export, quiet
from costopt_trainer.compress.onnx_quantize import quantize_graph
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.table import apply_steps
from costopt_trainer.instructions import has_int8_dot_products
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.onnx_model import GRAPH_FILE, OnnxModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

DECODER = {"numLayers": 4, "numHeads": 4, "embeddingDim": 128, "contextLength": 128}
SHAPES = {
    "DecoderLM": ModelShape(
        ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": DECODER}), vocabulary_size=256
    ),
    "ConvNet": ModelShape(
        ModelSettings.model_validate({"type": "ConvNet", "convNet": {"numStages": 3, "baseChannels": 32}}),
        image_shape=(3, 32, 32),
        num_classes=10,
    ),
}
SCHEMES = ("Int8DynamicActivation", "Int8Static", "Int4WeightOnly")


@dataclass
class Form:
    """One way to run a model."""

    forward: Callable[[Tensor], Tensor]
    num_bytes: int


def inputs_of(name: str, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if name == "DecoderLM":
        return torch.randint(0, 256, (count, 128), generator=generator)
    return torch.randn((count, 3, 32, 32), generator=generator)


def in_torch(name: str, folder: Path, *, compiled: bool) -> dict[str, Form]:
    """FP32 and int8 under torch's engines."""
    forms: dict[str, Form] = {}

    def add(word: str, engine: Any, model: nn.Module, num_bytes: int) -> None:
        forms[f"{word}, {engine}"] = Form(start(engine, model), num_bytes)

    model = fresh(name)
    whole = save_model(folder / "whole", model, SHAPES[name])
    add("FP32", "TorchEager", model, whole)
    int8 = fresh(name)
    steps = [Step(type="Quantize", quantize=Quantize(scheme="Int8DynamicActivation"))]
    apply_steps(int8, steps, lambda _number, pieces: StepRun(inputs_of(name, 2, 0), pieces))
    few = save_model(folder / "few", int8, SHAPES[name], steps=steps)
    if compiled:
        add("FP32", "TorchCompiled", model, whole)
        if has_int8_dot_products():  # else it takes a second, and is not tried for a variant
            add("Int8DynamicActivation", "TorchCompiled", int8, few)
    add("Int8DynamicActivation", "TorchQuantized", int8, few)
    return forms


def in_onnx(name: str, folder: Path, calibration: list[Any]) -> dict[str, Form]:
    """Graphs as variants have them."""
    whole = made(folder / "graph")
    export(fresh(name), inputs_of(name, 2, 0), whole)
    forms = {"FP32, OnnxRuntime": form_of(whole)}
    for scheme in SCHEMES:
        if name == "ConvNet" and scheme != "Int8Static":
            continue  # its convolutions would stay whole
        target = made(folder / scheme)
        reduce_range = not has_int8_dot_products()
        quantize_graph(whole, target, Quantize(scheme=scheme), reduce_range=reduce_range, calibration=calibration)
        forms[f"{scheme}, OnnxRuntime"] = form_of(target)
    return forms


def by_hand(name: str, folder: Path, calibration: list[Any]) -> dict[str, Form]:
    """Graphs as the guide of onnxruntime makes them."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = list(calibration)

        def get_next(self) -> dict[str, Any] | None:
            return {"inputs": self.left.pop(0)} if self.left else None

    folders = {word: made(folder / f"hand-{word}") for word in ("whole", "dynamic", "static")}
    batch = torch.export.Dim("batch", min=1, max=512)
    exported, prepared = folders["whole"] / GRAPH_FILE, folders["whole"] / "prepared.onnx"
    with quiet():
        torch.onnx.export(
            fresh(name), (inputs_of(name, 2, 0),), exported, input_names=["inputs"], dynamo=True, verbose=False,
            dynamic_shapes=({0: batch},), external_data=False,
        )  # fmt: skip
        quant_pre_process(str(exported), str(prepared))
        quantize_dynamic(str(prepared), str(folders["dynamic"] / GRAPH_FILE))
        quantize_static(str(prepared), str(folders["static"] / GRAPH_FILE), Reader())
    return {f"onnxruntime by hand, {word}": plain_form_of(folder) for word, folder in folders.items()}


def fresh(name: str) -> Any:
    torch.manual_seed(0)
    return build_model(SHAPES[name]).eval().requires_grad_(False)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def form_of(folder: Path) -> Form:
    return Form(OnnxModel(folder), (folder / GRAPH_FILE).stat().st_size)


def plain_form_of(folder: Path) -> Form:
    """A session with the defaults, but for the number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / GRAPH_FILE, options, providers=["CPUExecutionProvider"])

    def forward(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])

    return Form(forward, (folder / GRAPH_FILE).stat().st_size)


def compare(name: str, rounds: int, *, compiled: bool) -> None:
    """Print a table of all forms of a model."""
    batch = inputs_of(name, 16 if name == "DecoderLM" else 32, 1)
    calibration = [inputs_of(name, 8, seed).numpy() for seed in range(2, 10)]
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(temporary)
        forms = in_torch(name, folder, compiled=compiled) | in_onnx(name, folder, calibration)
        forms |= by_hand(name, folder, calibration)
        whole = forms["FP32, TorchEager"]
        expected = whole.forward(batch)
        seconds: dict[str, list[float]] = {word: [] for word in forms}
        for form in forms.values():
            form.forward(batch.clone())
        for _ in range(rounds):
            for word, form in forms.items():
                begun = time.process_time()
                form.forward(batch)
                seconds[word].append(time.process_time() - begun)
        fp32 = min(statistics.median(times) for word, times in seconds.items() if word.startswith("FP32"))
        print(f"\n| {name} | ms | to the fastest FP32 | smaller | difference |\n|---|---|---|---|---|")
        for word, form in forms.items():
            median = statistics.median(seconds[word])
            difference = float((form.forward(batch) - expected).norm() / expected.norm())
            print(
                f"| {word} | {1000 * median:.1f} | {fp32 / median:.2f} x | {whole.num_bytes / form.num_bytes:.2f} x "
                f"| {100 * difference:.2f} % |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--models", nargs="*", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes a minute")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{given.threads} threads, products of 8 bits in one instruction: {has_int8_dot_products()}")
    for name in given.models:
        compare(name, given.rounds, compiled=not given.no_compile)


if __name__ == "__main__":
    main()
