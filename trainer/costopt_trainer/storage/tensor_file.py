"""Files of tensors in safetensors' format, written block by block.

write_tensor_file    tensors -> a new file, synced, and its record
write_file           the same for any bytes
LazyTensor           a tensor that is read when its turn comes

The bytes are those that safetensors itself writes. Its own writers do not serve here: `save` makes a second copy of
all tensors, and keeps Python's lock while it does; errors of `save_file` have no errno. Hashing, writing and syncing a
block let go of the lock, so a thread that writes does not stop the one that trains.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from costopt_trainer.storage.tensor_pieces import DTYPE_NAMES

FileRecord = dict[str, int | str]
"""A manifest's record of a file: `size` in bytes, `sha256` in hexadecimal."""

BLOCK_BYTES = 2**24
_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")
"""Tensors stand in this order of dtypes, so that each begins at a multiple of its elements' size; then by name."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor known by dtype and shape until `read` gives it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: "Tensor | LazyTensor") -> "LazyTensor":
        """`tensor` itself, if it is there already."""
        if isinstance(tensor, LazyTensor):
            return tensor
        return cls(tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        size = self.dtype.itemsize
        for extent in self.shape:
            size *= extent
        return size


def write_file(path: Path, content: bytes) -> FileRecord:
    """Write and sync a new file; returns its record. Raises OSError."""
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_tensor_file(
    path: Path,
    tensors: Mapping[str, Tensor | LazyTensor],
    *,
    metadata: Mapping[str, str] | None = None,
    on_block: Callable[[], object] = lambda: None,
) -> FileRecord:
    """Write and sync a new file of tensors, each read when its turn comes; returns its record.

    `on_block` is called after each block. Raises OSError, and ValueError if a lazy tensor is not what it said.

    Copies from a GPU, one tensor at a time: a host-device sync point.
    """
    lazy = {name: LazyTensor.of(tensor) for name, tensor in tensors.items()}
    names = sorted(lazy, key=lambda name: (_ORDER.index(DTYPE_NAMES[lazy[name].dtype]), name))
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as stream:
        for block in _blocks({name: lazy[name] for name in names}, metadata):
            digest.update(block)
            stream.write(block)
            size += len(block)
            on_block()
        stream.flush()
        os.fsync(stream.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _blocks(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None) -> Iterator[memoryview]:
    """The bytes of the file, a few at a time."""
    yield memoryview(_header(tensors, metadata))
    for name, tensor in tensors.items():
        content = _bytes_of(name, tensor)
        for start in range(0, len(content), BLOCK_BYTES):
            yield content[start : start + BLOCK_BYTES]


def _header(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None) -> bytes:
    """Length and table of contents, padded so that the first tensor begins at a multiple of 8."""
    table: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        table[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(name: str, lazy: LazyTensor) -> memoryview:
    tensor = lazy.read().detach().cpu().contiguous()
    if (tensor.dtype, tuple(tensor.shape)) != (lazy.dtype, lazy.shape):
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)} and not {lazy.dtype} {lazy.shape}")
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
