"""Which part of which tensor is in which file: the `tensors` of a checkpoint's manifest.

    {"model": {"head.weight": {"dtype": "F32", "shape": [256, 8], "pieces": [
        {"file": "model-00000-00000.safetensors", "offsets": [0, 0], "shape": [128, 8]},
        {"file": "model-00001-00000.safetensors", "offsets": [128, 0], "shape": [128, 8]}]}}}

Box            a block of a tensor's elements
StoredTensor   one tensor: global shape, dtype, and its pieces
Shard          what one rank holds of a tensor
parse_tensors  plain data -> tensors, each covered by its pieces exactly once
describe, merge_tensors    shards -> plain data, of one rank and of all

The pieces do not depend on the layout that wrote them, so any other layout can read them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from costopt.hostile import Hostile

KINDS = ("model", "optimizer", "random", "carried", "average")
"""The tensor tables of a checkpoint; also the prefixes of its file names."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of dtypes."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_DIMS = 5
MAX_CORNERS = 2**21
"""The check of a tensor's pieces keeps 2^dims corners of each in memory: 200 bytes per corner."""

PlainTensors = dict[str, dict[str, dict[str, Any]]]
"""Kind -> name -> dtype, shape and pieces, as JSON has them."""


@dataclass(frozen=True)
class Box:
    """A block of a tensor's elements: its first index and its extent, in each dimension."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Box":
        """All elements of a tensor of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def ends(self) -> tuple[int, ...]:
        """The index after the last, in each dimension."""
        return tuple(offset + extent for offset, extent in zip(self.offsets, self.shape, strict=True))

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def is_within(self, other: "Box") -> bool:
        """Whether it is inside `other`, which has as many dimensions."""
        starts = zip(self.offsets, other.offsets, strict=True)
        ends = zip(self.ends, other.ends, strict=True)
        return all(own >= outer for own, outer in starts) and all(own <= outer for own, outer in ends)

    def intersection(self, other: "Box") -> "Box":
        """The common block; of size 0 if there is none."""
        offsets = tuple(map(max, self.offsets, other.offsets))
        shape = tuple(
            max(0, end - offset) for offset, end in zip(offsets, map(min, self.ends, other.ends), strict=True)
        )
        return Box(offsets, shape)

    def slices_in(self, outer: "Box") -> tuple[slice, ...]:
        """Its place in a tensor with the elements of `outer`."""
        return tuple(
            slice(offset - start, offset - start + extent)
            for offset, start, extent in zip(self.offsets, outer.offsets, self.shape, strict=True)
        )


@dataclass(frozen=True)
class Piece:
    """Elements of a tensor in a file, under the name `key`."""

    file: str
    key: str
    box: Box


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint."""

    dtype: str
    """One of DTYPES."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    pieces: tuple[Piece, ...]
    """Together they cover every element; pieces with equal bounds are copies."""


@dataclass(frozen=True)
class Shard:
    """A rank's part of a tensor: `tensor` starts at `offsets` of the whole, which has `global_shape`."""

    tensor: Tensor
    offsets: tuple[int, ...]
    global_shape: tuple[int, ...]


def shards_of(held: Tensor | Sequence[Shard]) -> Sequence[Shard]:
    """The shards that a rank holds of one tensor; a plain tensor is one full shard."""
    if isinstance(held, Tensor):
        return [Shard(held, (0,) * held.dim(), tuple(held.shape))]
    return held


def describe(shard: Shard, file: str) -> dict[str, Any]:
    """Plain data of a tensor with one shard in a file."""
    piece = {"file": file, "offsets": list(shard.offsets), "shape": list(shard.tensor.shape)}
    return {"dtype": DTYPE_NAMES[shard.tensor.dtype], "shape": list(shard.global_shape), "pieces": [piece]}


def merge_tensors(parts: Iterable[PlainTensors]) -> PlainTensors:
    """One table of the tensors of several ranks or files. Raises ValueError if they disagree on a tensor."""
    merged: PlainTensors = {}
    for part in parts:
        for kind, tensors in part.items():
            known = merged.setdefault(kind, {})
            for name, tensor in tensors.items():
                first = known.setdefault(name, {**tensor, "pieces": []})
                if (first["dtype"], first["shape"]) != (tensor["dtype"], tensor["shape"]):
                    raise ValueError(f"ranks hold {name} with other dtypes or global shapes")
                first["pieces"].extend(tensor["pieces"])
    return merged


def parse_tensors(plain: Any, files: Collection[str]) -> dict[str, dict[str, StoredTensor]]:
    """The tensors of each kind, by name; `files` are the checkpoint's. Raises Hostile with what is wrong."""
    if not isinstance(plain, Mapping) or not all(isinstance(tensors, Mapping) for tensors in plain.values()):
        raise Hostile("has no table of tensors")
    if unknown := plain.keys() - {*KINDS}:
        raise Hostile(f"has tensors of an unknown kind, {min(unknown)[:80]!r}")
    return {
        kind: {name: _parse_tensor(kind, name, tensor, files) for name, tensor in plain.get(kind, {}).items()}
        for kind in KINDS
    }


def _parse_tensor(kind: str, name: str, plain: Any, files: Collection[str]) -> StoredTensor:
    told = f"{kind} {name[:80]!r}"
    if not isinstance(plain, Mapping) or plain.keys() != {"dtype", "shape", "pieces"}:
        raise Hostile(f"does not give dtype, shape and pieces of {told}")
    if not isinstance(plain["dtype"], str) or plain["dtype"] not in DTYPES:
        raise Hostile(f"gives {told} an unknown dtype")
    shape = _extents(plain["shape"], told)
    if not isinstance(plain["pieces"], list):
        raise Hostile(f"does not list the pieces of {told}")
    pieces = []
    for piece in plain["pieces"]:
        if not isinstance(piece, Mapping) or piece.keys() != {"file", "offsets", "shape"}:
            raise Hostile(f"does not give file, offsets and shape of each piece of {told}")
        file = piece["file"]
        if not isinstance(file, str) or file not in files or not file.startswith(f"{kind}-"):
            raise Hostile(f"has a piece of {told} in a file that is none of its own")
        offsets, extents = _extents(piece["offsets"], told), _extents(piece["shape"], told)
        if not len(offsets) == len(extents) == len(shape):
            raise Hostile(f"has a piece of {told} with another number of dimensions")
        pieces.append(Piece(file, name, Box(offsets, extents)))
    fault = _fault_of_cover(shape, {piece.box for piece in pieces})
    if fault:
        raise Hostile(f"{fault} {told}")
    return StoredTensor(plain["dtype"], shape, tuple(pieces))


def _extents(plain: Any, told: str) -> tuple[int, ...]:
    if not isinstance(plain, list) or not all(type(extent) is int and extent >= 0 for extent in plain):
        raise Hostile(f"gives {told} a shape or offsets that are not whole numbers")
    if len(plain) > MAX_DIMS:
        raise Hostile(f"gives {told} more than {MAX_DIMS} dimensions")
    return tuple(plain)


def _fault_of_cover(shape: tuple[int, ...], boxes: Collection[Box]) -> str | None:
    """Why `boxes` do not cover each element of a tensor exactly once, in words; None if they do.

    Each box adds +1 or -1 at each of its corners. These sums are the differences, along all dimensions, of the number
    of boxes that hold an element; so they equal those of the whole tensor if and only if the boxes tile it. The time
    is linear in the number of boxes; comparing all pairs would be quadratic.
    """
    if len(boxes) << len(shape) > MAX_CORNERS:
        return "has more pieces than are read of"
    whole = Box.whole(shape)
    if not all(box.is_within(whole) for box in boxes):
        return "has a piece outside of"
    corners: Counter[tuple[int, ...]] = Counter()
    for weight, box in ((-1, whole), *((1, box) for box in boxes)):
        for sides in product((0, 1), repeat=len(shape)):
            corner = tuple(
                offset + side * extent for offset, side, extent in zip(box.offsets, sides, box.shape, strict=True)
            )
            corners[corner] += weight * (-1) ** sum(sides)
    if not any(corners.values()):
        return None
    held = sum(box.size for box in boxes)
    return "has no piece for a part of" if held < whole.size else "has pieces that overlap in"
