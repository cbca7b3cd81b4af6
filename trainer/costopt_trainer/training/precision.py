"""The number formats of training: which dtype the forward pass computes in, and how FP16 gradients avoid underflow.

    autocast_for      a factory of the context that the forward pass runs in
    slow_precision    a warning about a format without instructions on this processor
    gradient_scaler   loss scaling: active in FP16, a no-op otherwise
    all_finite        are these tensors free of infinities and NaNs?

Weights, gradients and optimizer state are float32 throughout (mixed precision training, arXiv 1710.03740). BF16 has
the exponents of float32 and needs no scaling.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

PrecisionName = Literal["FP32", "BF16", "FP16"]
Autocast = Callable[[], AbstractContextManager[object]]

_COMPUTE_DTYPES = {"BF16": torch.bfloat16, "FP16": torch.float16}
_INSTRUCTIONS = {
    "BF16": ("avx512_bf16", "amx_bf16", "bf16"),
    "FP16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""A CPU with any of these computes in the format; names as in `torch.cpu.get_capabilities`."""


def autocast_for(precision: PrecisionName, device: torch.device) -> Autocast:
    """A factory of the context that a forward pass runs in; a no-op in FP32."""
    if precision == "FP32":
        return nullcontext
    dtype = _COMPUTE_DTYPES[precision]
    return lambda: torch.autocast(device.type, dtype=dtype)


def slow_precision(precision: PrecisionName, device: torch.device) -> str | None:
    """One line for users of a format that this processor only emulates; None if it computes in it."""
    if device.type != "cpu" or precision == "FP32":
        return None
    able = torch.cpu.get_capabilities()
    if any(able.get(name, False) for name in _INSTRUCTIONS[precision]):
        return None
    return (
        f"precision {precision}: this processor has no instructions for it ({', '.join(_INSTRUCTIONS[precision])}) and "
        "imitates it, which is slower than FP32"
    )


def gradient_scaler(precision: PrecisionName, device: torch.device, *, gradients_are_split: bool) -> GradScaler:
    """Loss scaling for FP16; otherwise a disabled scaler, so that the loop is the same for all.

    With `gradients_are_split` (a pipeline) each rank sees only the gradients of its own layers: then all ranks decide
    together whether to skip a step, since a step taken by some and skipped by others would corrupt the model.
    """
    enabled = precision == "FP16"
    if enabled and gradients_are_split:
        return _SharedGradScaler(device.type)
    return GradScaler(device.type, enabled=enabled)


class _SharedGradScaler(GradScaler):
    """A GradScaler that all ranks share: an overflow on one is an overflow on all.

    torch has one for FSDP, but it fails with fused optimizers (torch 2.13).
    """

    def _unscale_grads_(self, *args: Any, **kwargs: Any) -> dict[torch.device, Tensor]:
        overflows = super()._unscale_grads_(*args, **kwargs)
        for overflow in overflows.values():
            dist.all_reduce(overflow, op=dist.ReduceOp.MAX)
        return overflows


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """True if no element is infinite or NaN. A host-device sync point: reads the result."""
    checks = [torch.isfinite(tensor).all() for tensor in tensors]
    return not checks or bool(torch.stack(checks).all())
