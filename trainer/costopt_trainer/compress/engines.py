"""The ways to run a variant. The fastest on this machine is found by measuring, and the report names it.

    TorchEager      torch's kernels one by one; 8-bit weights as torchao's tensors
    TorchCompiled   the same under torch.compile
    TorchQuantized  torch's own 8-bit kernels (FBGEMM, oneDNN), uncompiled; one scale for a batch's activations

Int8 with dynamic activations has two fast ways on a CPU. torchao's tensors are fast once compiled, but only if the
processor adds up 8-bit products in one instruction (VNNI or similar): elsewhere torch multiplies them in a plain
loop, 24 times slower than FP32. torch's own kernels need only AVX2, so they are tried everywhere.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from costopt.schema.compression import Step
from costopt.schema.variant_report import EngineName
from costopt_trainer.compress.table import wants_compile

Forward = Callable[[Tensor], Tensor]

_INT8_DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "dot")
"""Instructions that add up 8-bit products, named as in `torch.cpu.get_capabilities`."""

_KERNEL_LIBRARIES = ("x86", "onednn", "qnnpack")
"""Libraries of 8-bit kernels, the best first; "x86" is FBGEMM or oneDNN, by the layer's shape."""


def engines_for(steps: Sequence[Step], device: torch.device) -> tuple[EngineName, ...]:
    """The engines worth trying for a model that `steps` made, on `device`."""
    if not wants_compile(steps):
        return ("TorchEager",)  # compiling would help the baseline as much
    if device.type != "cpu":
        return ("TorchCompiled", "TorchEager")
    engines: list[EngineName] = []
    if has_int8_dot_products():
        engines.append("TorchCompiled")
    if kernel_library() is not None:
        engines.append("TorchQuantized")
    return tuple(engines) or ("TorchEager",)


def has_int8_dot_products() -> bool:
    """Whether this processor adds up 8-bit products in one instruction."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in _INT8_DOT_PRODUCTS)


def kernel_library() -> str | None:
    """The library of 8-bit kernels that TorchQuantized uses here; None if torch was built without any."""
    return next((name for name in _KERNEL_LIBRARIES if name in torch.backends.quantized.supported_engines), None)


def start(engine: EngineName, model: nn.Module) -> Forward:
    """`model`, in eval mode, under `engine`; TorchCompiled compiles at the first call. `model` stays as it is."""
    if engine == "TorchCompiled":
        return torch.compile(model)
    if engine == "TorchQuantized":
        return _with_quantized_kernels(model)
    return model


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
    return isinstance(layer, nn.Linear) and hasattr(layer.weight, "qdata")


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
