"""Tensors with many zeros <-> plain tensors that need fewer bytes, to the same bits.

    pack       tensors -> tensors, and metadata for the safetensors header
    unpack     and back

A packed tensor is two: `<name>.mask`, one bit for each element in the order of memory, the first in the highest bit of
the first byte, 1 where the element is not zero; and `<name>.values`, those elements. Its shape is in the metadata, in
JSON under PACKED. Only an element of which all bits are zero counts as one: minus zero is a value.
"""

import json
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from costopt.hostile import parse_json

PACKED = "costopt.packed"
"""In the metadata: name of each packed tensor -> its shape."""
MASK, VALUES = ".mask", ".values"
WORTH = 0.9
"""What packing must make of the bytes of a tensor at most."""
_HEADER_BYTES = 256
"""What the header may grow by for a tensor."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`tensors`, of which those that become smaller by it are packed, and metadata; that is empty if none is."""
    packed: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        parts = _packed(tensor)
        if parts is None or any(f"{name}{end}" in tensors for end in (MASK, VALUES)):
            packed[name] = tensor
            continue
        shapes[name] = list(tensor.shape)
        packed[f"{name}{MASK}"], packed[f"{name}{VALUES}"] = parts
    return packed, {PACKED: json.dumps(shapes, sort_keys=True)} if shapes else {}


def unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What was packed, and the other metadata. Raises ValueError, KeyError or TypeError for what `pack` never gave."""
    rest = {key: text for key, text in metadata.items() if key != PACKED}
    unpacked = dict(tensors)
    if PACKED in metadata:
        for name, shape in parse_json(metadata[PACKED].encode()).items():
            mask, values = unpacked.pop(f"{name}{MASK}"), unpacked.pop(f"{name}{VALUES}")
            unpacked[name] = _unpacked(mask, values, shape)
    return unpacked, rest


def _packed(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mask and values; None if that is not worth it."""
    if tensor.numel() == 0 or tensor.element_size() not in _INTEGERS or tensor.is_complex():
        return None
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    there = flat.view(_INTEGERS[flat.element_size()]) != 0
    packed_bytes = -(-flat.numel() // 8) + int(there.sum()) * flat.element_size() + _HEADER_BYTES
    if packed_bytes > WORTH * flat.numel() * flat.element_size():
        return None
    return torch.from_numpy(np.packbits(there.numpy())), flat[there]


def _unpacked(mask: Tensor, values: Tensor, shape: object) -> Tensor:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("the shape of a packed tensor must be whole numbers")
    count = math.prod(shape)
    # The mask is as long as the file says: nothing larger is made than eight elements for each of its bytes.
    if mask.dtype != torch.uint8 or mask.shape != (-(-count // 8),) or values.dim() != 1:
        raise ValueError("a packed tensor must have a bit for each of its elements")
    there = torch.from_numpy(np.unpackbits(mask.numpy(), count=count)).bool()
    if int(there.sum()) != len(values):
        raise ValueError("a packed tensor must have a value for each bit that is set")
    flat = torch.zeros(count, dtype=values.dtype)
    flat[there] = values
    return flat.view(shape)
