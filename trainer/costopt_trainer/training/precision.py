"""The number formats of training: which dtype the forward pass computes in, and how FP16 gradients avoid underflow.

    autocast_for      a factory of the context that the forward pass runs in
    set_tf32          whether a GPU rounds the factors of float32 products
    slow_precision    a warning about a format without instructions on this processor or GPU
    gradient_scaler   loss scaling: active in FP16, a no-op otherwise
    all_finite        are these tensors free of infinities and NaNs?

Weights, gradients and optimizer state are float32 throughout (mixed precision training, arXiv 1710.03740). BF16 has
the exponents of float32 and needs no scaling.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.distributed.tensor import DTensor

PrecisionName = Literal["FP32", "TF32", "BF16", "FP16"]
Autocast = Callable[[], AbstractContextManager[object]]

_COMPUTE_DTYPES = {"BF16": torch.bfloat16, "FP16": torch.float16}
_INSTRUCTIONS = {
    "BF16": ("avx512_bf16", "amx_bf16", "bf16"),
    "FP16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""A CPU with any of these computes in the format; names as in `torch.cpu.get_capabilities`."""
_BEFORE_AMPERE: dict[PrecisionName, PrecisionName] = {"TF32": "FP32", "BF16": "FP16"}
"""What NVIDIA's GPUs have had since the compute capability 8.0, and what is faster on those before."""


def autocast_for(precision: PrecisionName, device: torch.device) -> Autocast:
    """A factory of the context that a forward pass runs in; a no-op in FP32 and TF32."""
    if precision not in _COMPUTE_DTYPES:
        return nullcontext
    dtype = _COMPUTE_DTYPES[precision]
    return lambda: torch.autocast(device.type, dtype=dtype)


def compute_dtype(precision: PrecisionName) -> torch.dtype | None:
    """The half precision that is computed in; None in FP32."""
    return _COMPUTE_DTYPES.get(precision)


def set_tf32(precision: PrecisionName) -> None:
    """Have this process' GPU round the factors of float32 products to TF32, if that is the precision asked for.

    Otherwise nothing is changed: torch itself does so in convolutions only.
    """
    if precision == "TF32":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn.fp32_precision = "tf32"  # type: ignore[attr-defined]


def slow_precision(precision: PrecisionName, device: torch.device) -> str | None:
    """One line for users of a format that this device does not have, with what would be faster; None if it has it."""
    if device.type == "cuda":
        return _missing_on_gpu(precision, device)
    if device.type != "cpu" or precision == "FP32":
        return None
    if precision == "TF32":
        return (
            "precision TF32: processors do not have it and compute in FP32, which is the same as recipe.precision: FP32"
        )
    able = torch.cpu.get_capabilities()
    if any(able.get(name, False) for name in _INSTRUCTIONS[precision]):
        return None
    return (
        f"precision {precision}: this processor has no instructions for it ({', '.join(_INSTRUCTIONS[precision])}) and "
        "imitates it, which is slower: set recipe.precision: FP32"
    )


def _missing_on_gpu(precision: PrecisionName, device: torch.device) -> str | None:
    faster = _BEFORE_AMPERE.get(precision)
    if faster is None or not torch.cuda.is_available() or torch.version.hip:
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):
        return None
    found = ".".join(str(number) for number in capability)
    return (
        f"precision {precision}: this GPU does not have it (compute capability {found}, and 8.0 has): "
        f"set recipe.precision: {faster}"
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

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        """Divide what this rank holds of each gradient by the scale; 1.0 by device if any rank's had an overflow."""
        del allow_fp16  # weights are float32
        held: dict[torch.device, list[Tensor]] = {}
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                gradient = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
                held.setdefault(gradient.device, []).append(gradient)
        # A rank may hold no gradient at all, and takes part all the same.
        device = inv_scale.device
        overflow = found_inf.clone()
        for place, gradients in held.items():
            found = overflow.to(place)
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, inv_scale.to(place))
            overflow = torch.maximum(overflow, found.to(device))
        dist.all_reduce(overflow, op=dist.ReduceOp.MAX)
        return {place: overflow.to(place) for place in held or (device,)}


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """True if no element that this rank holds is infinite or NaN. A host-device sync point: reads the result."""
    held = [tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    checks = [torch.isfinite(tensor).all() for tensor in held]
    return not checks or bool(torch.stack(checks).all())
