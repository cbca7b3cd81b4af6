"""A checkpoint's files: written durably, and read so that damage is detected.

write_tensors                a rank's tensors -> new files, synced, and their records in the manifest
manifest_content             all records -> the manifest, if that can be read again
damage_in                    what is wrong with a checkpoint, in words
read_tensors                 tensors of a kind by name, or a region of each, assembled from their pieces
tensor_names                 the tensors of a kind
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from costopt.hostile import Hostile, open_file, read_json, real_folder
from costopt_trainer.errors import NotRetryable
from costopt_trainer.storage.tensor_file import BLOCK_BYTES, FileRecord, write_tensor_file
from costopt_trainer.storage.tensor_pieces import (
    DTYPES,
    Box,
    Piece,
    PlainTensors,
    Shard,
    StoredTensor,
    describe,
    merge_tensors,
    parse_tensors,
    shards_of,
)

Region = Callable[[str, tuple[int, ...]], Box]
"""Name and global shape of a tensor -> the block of it to read."""

FORMAT = "costopt-checkpoint"
FORMAT_VERSION = 2
"""Version 1 had no table of tensors: each was whole, in the file whose header named it. It is still read."""
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 2**24
"""A tensor takes about 200 bytes, so this is for eighty thousand."""

MAX_FILE_BYTES = 2**30
"""A larger tensor has a file of its own."""

_FILE_NAME = re.compile(r"state\.json|(model|optimizer|random|carried|average)-[0-9]{5,9}-[0-9]{5,9}\.safetensors")
"""File names that a manifest may have: none leads out of its folder."""


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest."""

    files: dict[str, tuple[int, str]]
    """Size and sha256 of each file."""
    tensors: dict[str, dict[str, StoredTensor]] | None
    """By kind and name; None in version 1, where only the files know."""


def damage_in(
    checkpoint: Path, step: int, job: str | None = None, on_block: Callable[[], object] = lambda: None
) -> str | None:
    """What is wrong with the folder of a job's checkpoint, in words; None if every byte is as written.

    `on_block` is called after each part read from a file.
    """
    try:
        manifest = _read_manifest(checkpoint, step, job)
    except OSError as error:
        return f"{MANIFEST_FILE}: {error.strerror}"
    except Hostile as error:
        return str(error)
    expected = _pieces_by_file(manifest)
    for name, (size, digest) in manifest.files.items():
        try:
            with open_file(checkpoint / name) as stream:
                if os.fstat(stream.fileno()).st_size != size:
                    return f"{name} has {os.fstat(stream.fileno()).st_size} bytes instead of {size}"
                if _digest(stream, on_block) != digest:
                    return f"{name} has other contents than were written"
            if name in expected and (damage := _damage_in_header(checkpoint / name, expected[name])):
                return damage
        except OSError as error:
            return f"{name}: {error.strerror}"
        except SafetensorError:
            return f"{name} is no file of tensors"
        except Hostile as error:
            return f"{name} {error}"
    return None


def _pieces_by_file(manifest: Manifest) -> dict[str, list[tuple[Piece, str]]]:
    """File -> its pieces in the manifest, each with its tensor's dtype."""
    pieces: dict[str, list[tuple[Piece, str]]] = {}
    for tensors in (manifest.tensors or {}).values():
        for tensor in tensors.values():
            for piece in tensor.pieces:
                pieces.setdefault(piece.file, []).append((piece, tensor.dtype))
    return pieces


def _damage_in_header(path: Path, expected: Sequence[tuple[Piece, str]]) -> str | None:
    """The difference between a tensor file and the pieces that should be in it, in words. Raises SafetensorError."""
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        for piece, dtype in expected:
            if piece.key not in keys:
                return f"{path.name} lacks the tensor {piece.key[:80]!r}"
            stored = file.get_slice(piece.key)
            if (stored.get_dtype(), tuple(stored.get_shape())) != (dtype, piece.box.shape):
                return f"{path.name} has {piece.key[:80]!r} with another dtype or shape than {MANIFEST_FILE} says"
    return None


def _read_manifest(checkpoint: Path, step: int | None = None, job: str | None = None) -> Manifest:
    """A checkpoint's manifest, which must be of `step` and `job`. Raises OSError, and Hostile with what is wrong."""
    real_folder(checkpoint)
    try:
        plain = read_json(checkpoint / MANIFEST_FILE, max_bytes=MAX_MANIFEST_BYTES)
    except Hostile as error:
        raise Hostile(f"{MANIFEST_FILE} {error}") from error
    return _parse_manifest(plain, step, job)


def _parse_manifest(plain: Any, step: int | None, job: str | None) -> Manifest:
    """The manifest in JSON data. Older versions wrote no job. Raises Hostile."""
    if not isinstance(plain, dict) or not isinstance(plain.get("files"), dict):
        raise Hostile(f"{MANIFEST_FILE} is not a manifest")
    version = plain.get("version")
    if plain.get("format") != FORMAT or type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise Hostile(f"{MANIFEST_FILE} is of another format than {FORMAT} 1 to {FORMAT_VERSION}")
    if step is not None and plain.get("step") != step:
        raise Hostile(f"{MANIFEST_FILE} is of another step")
    if job is not None and plain.get("job", job) != job:
        raise Hostile(f"it is of another job, {str(plain['job'])[:80]!r}")
    files = {}
    for name, record in plain["files"].items():
        if _FILE_NAME.fullmatch(name) is None:
            raise Hostile(f"{MANIFEST_FILE} names a file that is none of a checkpoint, {name[:80]!r}")
        if not isinstance(record, dict) or type(record.get("size")) is not int or type(record.get("sha256")) is not str:
            raise Hostile(f"{MANIFEST_FILE} is not a manifest")
        files[name] = (record["size"], record["sha256"])
    if version == 1:
        return Manifest(files, None)
    try:
        return Manifest(files, parse_tensors(plain.get("tensors"), files))
    except Hostile as error:
        raise Hostile(f"{MANIFEST_FILE} {error}") from error


def manifest_content(step: int, job: str, files: Mapping[str, FileRecord], tensors: PlainTensors) -> bytes:
    """The manifest of a checkpoint, checked so that it can be read again.

    Raises NotRetryable("CheckpointNotWritable") if it is too long, and Hostile if the pieces do not form tensors.
    """
    plain = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "job": job,
        "step": step,
        "files": dict(files),
        "tensors": tensors,
    }
    content = json.dumps(plain, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    if len(content) > MAX_MANIFEST_BYTES:
        raise NotRetryable(
            "CheckpointNotWritable",
            f"{MANIFEST_FILE} would have {len(content)} bytes for the pieces of all tensors, more than "
            f"{MAX_MANIFEST_BYTES}: use fewer ranks or larger tensors",
        )
    _parse_manifest(plain, step, job)
    return content


def _digest(stream: BinaryIO, on_block: Callable[[], object]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
        on_block()
    return digest.hexdigest()


def write_tensors(
    folder: Path,
    kind: str,
    rank: int,
    tensors: Mapping[str, Tensor | Sequence[Shard]],
    on_block: Callable[[], object] = lambda: None,
) -> tuple[dict[str, FileRecord], PlainTensors]:
    """Write a rank's tensors and shards as `<kind>-<rank>-<number>.safetensors`; returns their manifest records.

    `on_block` is called after each block of 16 MiB. Raises OSError.

    Copies from a GPU: a host-device sync point.
    """
    files: dict[str, FileRecord] = {}
    tables: list[PlainTensors] = []
    for number, group in enumerate(_groups(tensors)):
        name = f"{kind}-{rank:05d}-{number:05d}.safetensors"
        held = {key: shard.tensor for key, shard in group.items()}
        files[name] = write_tensor_file(folder / name, held, on_block=on_block)
        tables += [{kind: {key: describe(shard, name)}} for key, shard in group.items()]
    return files, merge_tensors(tables)


def _groups(tensors: Mapping[str, Tensor | Sequence[Shard]]) -> Iterator[dict[str, Shard]]:
    """The shards of each file: as many as fit, and at most one per tensor, because its key is the tensor's name."""
    group: dict[str, Shard] = {}
    size = 0
    for name, held in tensors.items():
        for shard in shards_of(held):
            if group and (name in group or size + shard.tensor.nbytes > MAX_FILE_BYTES):
                yield group
                group, size = {}, 0
            group[name] = shard
            size += shard.tensor.nbytes
    if group:
        yield group


def read_tensors(
    folder: Path,
    kind: str,
    wanted: Callable[[str], bool] | None = None,
    region: Region | None = None,
) -> dict[str, Tensor]:
    """Tensors of a kind by name, those wanted (None: all); on the CPU.

    `region` gives, for a name and a global shape, the block of the tensor to read (None: the whole); no other bytes
    are read. Files that the manifest does not name are ignored. Raises OSError, ValueError or SafetensorError if a
    file is missing or is no tensor file.
    """
    stored = _stored_tensors(folder, kind)
    boxes: dict[str, Box] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if wanted is None or wanted(name):
            boxes[name] = Box.whole(tensor.shape) if region is None else region(name, tensor.shape)
            if not boxes[name].is_within(Box.whole(tensor.shape)):
                raise ValueError(f"{boxes[name]} is not a part of {name}, which has the shape {tensor.shape}")
    for file_name, pieces in sorted(_needed(stored, boxes).items()):
        open_file(folder / file_name).close()  # no link, no pipe: the next open does not check
        with safe_open(folder / file_name, framework="pt") as file:
            for name, piece in pieces:
                box = boxes[name]
                if piece.box == box:
                    tensors[name] = file.get_tensor(piece.key)
                    continue
                if name not in tensors:
                    tensors[name] = torch.empty(box.shape, dtype=DTYPES[stored[name].dtype])
                part = piece.box.intersection(box)
                tensors[name][part.slices_in(box)] = file.get_slice(piece.key)[part.slices_in(piece.box)]
    for name in boxes.keys() - tensors.keys():
        tensors[name] = torch.empty(boxes[name].shape, dtype=DTYPES[stored[name].dtype])  # no elements
    return tensors


def tensor_names(folder: Path, kind: str) -> set[str]:
    """The names of all tensors of a kind. Raises as `read_tensors` does."""
    return set(_stored_tensors(folder, kind))


def _needed(stored: Mapping[str, StoredTensor], boxes: Mapping[str, Box]) -> dict[str, list[tuple[str, Piece]]]:
    """File -> names and pieces to read: for each tensor in `boxes` those with a part of it, one of several copies."""
    needed: dict[str, list[tuple[str, Piece]]] = {}
    for name, box in boxes.items():
        distinct = {piece.box: piece for piece in stored[name].pieces}
        for piece in distinct.values():
            if piece.box.intersection(box).size:
                needed.setdefault(piece.file, []).append((name, piece))
    return needed


def _stored_tensors(folder: Path, kind: str) -> dict[str, StoredTensor]:
    """The tensors of a kind in a checkpoint, by name, as its manifest or, in version 1, its files name them."""
    manifest = _read_manifest(folder)
    if manifest.tensors is not None:
        return manifest.tensors[kind]
    stored: dict[str, StoredTensor] = {}
    for file_name in sorted(name for name in manifest.files if name.startswith(f"{kind}-")):
        open_file(folder / file_name).close()
        # Random states had no rank in their names, but in that of their file.
        prefix = f"{int(file_name.split('-')[1])}/" if kind == "random" else ""
        with safe_open(folder / file_name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  it is no mapping
                header = file.get_slice(key)
                shape = tuple(header.get_shape())
                piece = Piece(file_name, key, Box.whole(shape))
                stored[prefix + key] = StoredTensor(header.get_dtype(), shape, (piece,))
    return stored
