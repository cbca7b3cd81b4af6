"""Tensors of 8-bit numbers (torchao) <-> what safetensors can store: plain tensors and metadata, exactly.

    flatten_quantized      quantized tensors -> plain tensors and metadata
    unflatten_quantized    and back

This module imports torchao, which takes seconds: import it only for a quantized model or optimizer. Other modules
import the rest of torchao from here, because its first import must be kept quiet.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from costopt.hostile import parse_json

# torchao registers enums with torch in a way that torch 2.13 reports on every import; nothing is wrong with the model.
_pytree_log = logging.getLogger("torch.utils._pytree")
_level = _pytree_log.level
_pytree_log.setLevel(logging.ERROR)
try:
    from torchao.optim import AdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict, unflatten_tensor_state_dict
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        MappingType,
        PerTensor,
        choose_qparams_affine,
        dequantize_affine,
        quantize_,
        quantize_affine,
    )
    from torchao.utils import should_reduce_range
finally:
    _pytree_log.setLevel(_level)

__all__ = [
    "AdamW8bit",
    "Float8DynamicActivationFloat8WeightConfig",
    "Float8WeightOnlyConfig",
    "Int8DynamicActivationInt8WeightConfig",
    "Int8WeightOnlyConfig",
    "MappingType",
    "OptimState8bit",
    "PerTensor",
    "choose_qparams_affine",
    "dequantize_affine",
    "flatten_quantized",
    "quantize_",
    "quantize_affine",
    "should_reduce_range",
    "unflatten_quantized",
]

_KINDS = (
    *("Int8Tensor", "QuantizeTensorToInt8Kwargs", "PerRow", "MappingType", "torch.dtype"),
    *("Float8Tensor", "QuantizeTensorToFloat8Kwargs", "PerTensor", "Float8MMConfig", "KernelPreference"),
)
"""Types in the metadata of our steps' weights."""


def flatten_quantized(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Quantized tensors by name -> their 8-bit data and scales by name, and metadata for the safetensors header.

    Raises ValueError for a tensor type that cannot be stored without pickle.
    """
    return flatten_tensor_state_dict(dict(tensors))


def unflatten_quantized(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A file's tensors and metadata -> the quantized tensors by name, and the remaining plain ones.

    Raises ValueError, KeyError or TypeError if the metadata is not what `flatten_quantized` gave. torchao can build
    many kinds of objects from it, so only the few that our steps make are allowed.
    """
    for text in metadata.values():
        _refuse_other_kinds(parse_json(text.encode()))
    return unflatten_tensor_state_dict(dict(tensors), dict(metadata))


def _refuse_other_kinds(data: Any) -> None:
    if isinstance(data, list):
        for item in data:
            _refuse_other_kinds(item)
    elif isinstance(data, dict):
        kind = data.get("_type")
        if kind is not None and kind not in _KINDS:
            raise ValueError(f"the metadata of quantized weights names {str(kind)[:80]!r}")
        if kind == "torch.dtype" and not isinstance(getattr(torch, str(data.get("_data")), None), torch.dtype):
            raise ValueError("the metadata of quantized weights names no type of numbers")
        for item in data.values():
            _refuse_other_kinds(item)
