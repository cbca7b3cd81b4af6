"""Tensors of few different values <-> a codebook and packed indices into it, exactly.

    with_codebooks       tensors by name -> the same, of which those that get smaller by it are in two parts
    without_codebooks    and back, by the shapes that they must have

A tensor of at most 256 different values needs no more than 8 bits for each: `<name>:codebook` has the values, of the
tensor's own type, `<name>:indices` which of them stands where, packed without gaps, the first in the highest bits. The
number of bits is the least that all indices fit into, and so is not stored. Values are told apart by their bits: zero
and minus zero are two, and nothing is rounded. (Han et al., Deep Compression, arXiv 1510.00149, without Huffman code.)
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

CODEBOOK, INDICES = ":codebook", ":indices"
MOST_BITS = 8
_AS_WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AT_ONCE = 2**20
"""Indices that are packed at once; their bits fill whole bytes."""


def with_codebooks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same content in fewer bytes, where few values make up a tensor; others stay as they are."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = _in_two(tensor)
        stored |= {name: tensor} if parts is None else {name + CODEBOOK: parts[0], name + INDICES: parts[1]}
    return stored


def without_codebooks(stored: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """What `with_codebooks` was given; `shapes` of all tensors. Raises ValueError or KeyError for anything else."""
    tensors = {name: tensor for name, tensor in stored.items() if not name.endswith((CODEBOOK, INDICES))}
    for name, codebook in stored.items():
        if name.endswith(CODEBOOK):
            whole = name.removesuffix(CODEBOOK)
            tensors[whole] = _together(whole, codebook, stored[whole + INDICES], shapes[whole])
    return tensors


def _in_two(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    if not tensor.is_floating_point() or tensor.dim() < 2 or not tensor.numel():
        return None
    patterns = tensor.detach().cpu().contiguous().view(_AS_WHOLE_NUMBERS[tensor.element_size()]).flatten()
    if len(patterns[:_AT_ONCE].unique()) > 2**MOST_BITS:
        return None  # so much is seen at once
    values, places = patterns.unique(return_inverse=True)
    if len(values) > 2**MOST_BITS:
        return None
    indices = _packed(places.to(torch.uint8).numpy(), _bits(len(values)))
    codebook = values.view(tensor.dtype)
    return (codebook, indices) if codebook.nbytes + indices.nbytes < tensor.nbytes else None


def _together(name: str, codebook: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
    count, bits = math.prod(shape), _bits(len(codebook)) if codebook.dim() == 1 and len(codebook) else 0
    if not 1 <= bits <= MOST_BITS or indices.dtype != torch.uint8 or indices.shape != (-(-count * bits // 8),):
        raise ValueError(f"the codebook of {name[:80]} does not fit its indices")
    places = _unpacked(indices.numpy(), bits, count)
    if int(places.max(initial=0)) >= len(codebook):
        raise ValueError(f"an index of {name[:80]} is beyond its codebook")
    return codebook[torch.from_numpy(places).long()].view(shape)


def _bits(values: int) -> int:
    """Of an index into so many values."""
    return max((values - 1).bit_length(), 1)


def _packed(indices: "np.ndarray[tuple[int], np.dtype[np.uint8]]", bits: int) -> Tensor:
    parts = [
        np.packbits(np.unpackbits(indices[start : start + _AT_ONCE, None], axis=1)[:, 8 - bits :])
        for start in range(0, len(indices), _AT_ONCE)
    ]
    return torch.from_numpy(np.concatenate(parts))


def _unpacked(
    packed: "np.ndarray[tuple[int], np.dtype[np.uint8]]", bits: int, count: int
) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    indices = np.empty(count, dtype=np.uint8)
    for start in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - start)
        part = packed[start * bits // 8 : -(-(start + size) * bits // 8)]
        own = np.zeros((size, 8), dtype=np.uint8)
        own[:, 8 - bits :] = np.unpackbits(part, count=size * bits).reshape(size, bits)
        indices[start : start + size] = np.packbits(own, axis=1)[:, 0]
    return indices
