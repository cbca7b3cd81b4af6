"""The ways to run a variant. The fastest on this machine is found by measuring, and the report names it.

    TorchEager      torch's kernels one by one; 8-bit weights as torchao's tensors
    TorchCompiled   the same under torch.compile
    TorchQuantized  torch's own 8-bit kernels (FBGEMM, oneDNN), uncompiled; one scale for a batch's activations
    OnnxRuntime     the model as an ONNX graph; for a CPU, and only where the extra onnx is installed

On a CPU a graph is tried for every variant: what it brings depends on the model, and making it takes seconds.
torch.compile takes a minute or more for each of the two models there, so it is tried where a step needs it or the user
names it; on a GPU always.

Int8 with dynamic activations has two fast ways on a CPU. torchao's tensors are fast once compiled, but only if the
processor adds up 8-bit products in one instruction (VNNI or similar): elsewhere torch multiplies them in a plain
loop, 24 times slower than FP32. torch's own kernels need only AVX2, so they are tried everywhere.
"""

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from costopt.schema.compression import Variant
from costopt.schema.variant_report import EngineName
from costopt_trainer.compress.onnx_export import export
from costopt_trainer.compress.onnx_form import is_graph_only, quantized_by
from costopt_trainer.compress.table import wants_compile
from costopt_trainer.errors import NotRetryable
from costopt_trainer.instructions import has_int8_dot_products
from costopt_trainer.models.family import GraphScratch
from costopt_trainer.models.onnx_model import OnnxModel, lacking
from costopt_trainer.storage.folders import remove

Forward = Callable[[Tensor], Tensor]

GRAPH_SECONDS = 20
"""Of measureSeconds, below which a graph is made only of what can be expected to be fast as one, or is asked for."""

_KERNEL_LIBRARIES = ("x86", "onednn", "qnnpack")
"""Libraries of 8-bit kernels, the best first; "x86" is FBGEMM or oneDNN, by the layer's shape."""


def device_for(variant: Variant) -> torch.device:
    """The device that `variant` is measured on: a GPU where there is one, unless it is made for a CPU.

    Raises NotRetryable("InvalidSettings") if it is made for a GPU, and there is none.
    """
    there = torch.cuda.is_available()
    for_cpu = "Onnx" in variant.formats or is_graph_only(variant.steps)
    if variant.target == "GPU" and not there:
        raise NotRetryable(
            "InvalidSettings",
            f"variant {variant.name} has target GPU, but its pod has none: ask for one in resources, or set target CPU",
        )
    settings = quantized_by(variant.steps)
    if settings is not None and settings.scheme == "Float8DynamicActivation" and not _multiplies_float8(there=there):
        raise NotRetryable(
            "InvalidSettings",
            f"variant {variant.name} has scheme Float8DynamicActivation, which needs a GPU of compute capability 8.9 "
            "or more in its pod: ask for one in resources, or choose Float8WeightOnly",
        )
    return torch.device("cuda" if there and not for_cpu and variant.target != "CPU" else "cpu")


def _multiplies_float8(*, there: bool) -> bool:
    """Whether the GPU, if one is `there`, has kernels for 8-bit floats."""
    return there and torch.cuda.get_device_capability() >= (8, 9)


def engines_for(variant: Variant, device: torch.device) -> tuple[EngineName, ...]:
    """The engines of which the fastest is what `variant` is judged under on `device`: those that it can be expected to
    be fast under, and those that the user names. What is to be a graph is judged as that."""
    if is_graph_only(variant.steps) or "Onnx" in variant.formats:
        return ("OnnxRuntime",)
    named = named_engines(variant, device)
    if len(named) < len(set((variant.measure and variant.measure.engines) or ())):
        print(
            f"{variant.name}: OnnxRuntime is left out: a graph is for a CPU, and this is measured on a GPU", flush=True
        )
    return tuple(dict.fromkeys([*_by_default(variant, device), *named]))


def named_engines(variant: Variant, device: torch.device) -> tuple[EngineName, ...]:
    """The engines whose figures the user asks for, but for what is not for `device`."""
    named = (variant.measure and variant.measure.engines) or ()
    return tuple(engine for engine in dict.fromkeys(named) if engine != "OnnxRuntime" or device.type == "cpu")


def _by_default(variant: Variant, device: torch.device) -> list[EngineName]:
    if device.type != "cpu":
        return ["TorchCompiled", "TorchEager"]
    wants = wants_compile(variant.steps)
    why = lacking()
    if why is None and not wants and variant.measure_seconds < GRAPH_SECONDS:
        why = f"making graphs takes seconds, and measureSeconds is less than {GRAPH_SECONDS}"
    as_graph: list[EngineName] = ["OnnxRuntime"] if why is None else []
    if why is not None:
        print(f"{variant.name}: OnnxRuntime is left out: {why}", flush=True)
    if not wants:
        return ["TorchEager", *as_graph]
    adds_up = has_int8_dot_products()
    fast: list[EngineName] = ["TorchCompiled"] if adds_up else []
    if kernel_library() is not None:
        fast.append("TorchQuantized")
    fast += as_graph
    if adds_up or not fast:
        fast.append("TorchEager")
    return fast


def engines_beside(engines: Sequence[EngineName], device: torch.device) -> tuple[EngineName, ...]:
    """The engines that the model is tried under beside a variant that is tried under `engines`.

    Where that is TorchEager alone, so is this: like beside like. Else a faster engine is a gain that the model could
    have as well, so it is given all of them, also those that the variant then cannot run under, and onnxruntime.
    torch.compile is tried where it is for the variant: it may take longer than all else.
    """
    if set(engines) == {"TorchEager"}:
        return ("TorchEager",)
    with_graph: list[EngineName] = ["OnnxRuntime"] if device.type == "cpu" and lacking() is None else []
    able = [engine for engine in engines if engine != "TorchQuantized"]
    return tuple(dict.fromkeys(["TorchEager", *able, *with_graph]))


def kernel_library() -> str | None:
    """The library of 8-bit kernels that TorchQuantized uses here; None if torch was built without any."""
    return next((name for name in _KERNEL_LIBRARIES if name in torch.backends.quantized.supported_engines), None)


def start(engine: EngineName, model: nn.Module) -> Forward:
    """`model`, in eval mode, under `engine`; it is compiled, or exported, at the first call. `model` stays as it is."""
    if engine == "TorchCompiled":
        return torch.compile(model)
    if engine == "OnnxRuntime":
        return _as_graph(model)
    if engine == "TorchQuantized":
        return _with_quantized_kernels(model)
    return model


def _as_graph(model: nn.Module) -> Forward:
    """The graph of `model` where one was made; else one that is made of it at the first call."""
    if isinstance(model, OnnxModel):
        return model
    folder = getattr(model, "graph_folder", None)
    return _Exported(model) if folder is None else OnnxModel(folder)


def graph_for(forward: Forward, inputs: Tensor) -> OnnxModel:
    """The graph that `forward`, which `start` gave for OnnxRuntime, computes `inputs` with."""
    if isinstance(forward, _Exported):
        return forward.graph_for(inputs)
    assert isinstance(forward, OnnxModel)  # noqa: S101  there are no others
    return forward


class _Exported:
    """A model as a graph of its own, made for the first input unless that was done for a copy of the model, and again
    for one that does not fit it."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        scratch: GraphScratch | None = getattr(model, "graph_scratch", None)
        if scratch is None:
            self._temporary = tempfile.TemporaryDirectory()  # removed with this object
            scratch = GraphScratch(Path(self._temporary.name))
        self._scratch = scratch
        self._graph: OnnxModel | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.graph_for(inputs)(inputs)

    def graph_for(self, inputs: Tensor) -> OnnxModel:
        scratch = self._scratch
        if self._graph is None and scratch.seconds is not None:
            there = OnnxModel(scratch.folder)
            if there.fits(inputs):
                self._graph = there
                self._model.graph_seconds = scratch.seconds
        if self._graph is None or not self._graph.fits(inputs):
            begun = time.monotonic()
            scratch.seconds = None
            remove(scratch.folder)
            scratch.folder.mkdir(parents=True)
            export(self._model, inputs, scratch.folder)
            scratch.seconds = time.monotonic() - begun
            self._graph = OnnxModel(scratch.folder)
        return self._graph


def _with_quantized_kernels(model: nn.Module) -> nn.Module:
    """A copy of `model` whose int8 layers use torch's own kernels. Raises ValueError if it has none."""
    copied = copy.deepcopy(model)
    layers = [(name, layer) for name, layer in copied.named_modules() if _is_int8(layer)]
    if not layers:
        raise ValueError("the model must have int8 layers for TorchQuantized")
    for name, layer in layers:
        owner, _, attribute = name.rpartition(".")
        setattr(copied.get_submodule(owner), attribute, _QuantizedLinear(layer))
    return copied


def _is_int8(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and getattr(getattr(layer.weight, "qdata", None), "dtype", None) == torch.int8


class _QuantizedLinear(nn.Module):
    """A linear layer (..., in) -> (..., out) of float32 over packed int8 weights."""

    def __init__(self, linear: Any) -> None:
        """`linear` has one of torchao's int8 tensors as its weight, with a scale for each output."""
        super().__init__()
        weight, bias = linear.weight, linear.bias
        scales = weight.scale.flatten().double()
        zeros = torch.zeros_like(scales, dtype=torch.long)
        with warnings.catch_warnings():
            # Tensors of this kind are to go from torch some day; in the version that we ask for these kernels want one.
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")
            plain = torch._make_per_channel_quantized_tensor(weight.qdata, scales, zeros, 0)  # noqa: SLF001
        # Without such instructions two products are added in 16 bits, and full 8-bit activations overflow.
        self.reduce_range = not has_int8_dot_products()
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = kernel_library() or before
        try:
            self.packed = torch.ops.quantized.linear_prepack(plain, None if bias is None else bias.detach())
        finally:
            torch.backends.quantized.engine = before

    def forward(self, x: Tensor) -> Tensor:
        """Activations are quantized as they come, with one scale for all."""
        return torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
