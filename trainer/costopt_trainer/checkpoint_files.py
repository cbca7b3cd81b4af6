"""A checkpoint's files: written so that they last, and read so that damage shows.

write_file, write_tensors    new file, synced -> its record in the manifest
damage_in                    what is wrong with a checkpoint, in words
read_tensors                 tensors by name, from all files of a kind
remove                       a folder is gone at once or still whole
not_writable                 is a failed write worth another try?
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from costopt_trainer.errors import NotRetryable

FileRecord = dict[str, int | str]
"""What a manifest says of a file: `size` in bytes, `sha256` in hexadecimal."""

FORMAT = "costopt-checkpoint"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"

MAX_FILE_BYTES = 2**30
"""Tensors are serialised to memory and then written, so this bounds what saving needs beside them (a larger tensor has
a file of its own)."""

_BLOCK_BYTES = 2**24

_FOR_GOOD = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}
"""Errors of a write that a restart would only meet again; others (a network file system's EIO) may pass."""


def damage_in(checkpoint: Path, on_block: Callable[[], object] = lambda: None) -> str | None:
    """What is wrong with a checkpoint's folder, in words; None if every byte is as it was written.

    `on_block` is called after each part of a file that has been read.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST_FILE).read_bytes())
        if manifest["format"] != FORMAT or manifest["version"] != FORMAT_VERSION:
            return f"{MANIFEST_FILE} is of format {manifest['format']} {manifest['version']}"
        files = {str(name): (int(record["size"]), str(record["sha256"])) for name, record in manifest["files"].items()}
    except OSError as error:
        return f"{MANIFEST_FILE}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_FILE} is not a manifest"
    for name, (size, digest) in files.items():
        try:
            with (checkpoint / name).open("rb") as stream:
                if os.fstat(stream.fileno()).st_size != size:
                    return f"{name} has {os.fstat(stream.fileno()).st_size} bytes instead of {size}"
                if _digest(stream, on_block) != digest:
                    return f"{name} has other contents than were written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def _digest(stream: BinaryIO, on_block: Callable[[], object]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
        on_block()
    return digest.hexdigest()


def not_writable(folder: Path, error: OSError) -> Exception:
    """The NotRetryable that says what to do about a failed write below `folder`, or `error` itself if it may pass."""
    if error.errno not in _FOR_GOOD:
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free some space or use a larger volume"
    else:
        remedy = "it must be a folder that this user may write to"
    return NotRetryable("CheckpointNotWritable", f"cannot write to {folder} ({error.strerror}): {remedy}")


def write_file(path: Path, content: bytes) -> FileRecord:
    """Write and sync a file that is not there yet; returns what the manifest says of it. Raises OSError."""
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_tensors(
    folder: Path, kind: str, rank: int, tensors: Mapping[str, Tensor], on_file: Callable[[], object] = lambda: None
) -> dict[str, FileRecord]:
    """Write tensors as `<kind>-<rank>-<number>.safetensors`; returns the files' records by name. Raises OSError.

    `on_file` is called after each.

    Copies from a GPU: a host-device sync point.
    """
    records = {}
    for number, group in enumerate(_groups(tensors)):
        name = f"{kind}-{rank:05d}-{number:05d}.safetensors"
        # Serialised here, not by safetensors' own writer, whose errors have no errno.
        records[name] = write_file(folder / name, save(group))
        on_file()
    return records


def _groups(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    group: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if group and size + tensor.nbytes > MAX_FILE_BYTES:
            yield group
            group, size = {}, 0
        group[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    if group:
        yield group


def read_tensors(folder: Path, pattern: str, wanted: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """Tensors by name, those wanted (None: all), merged from the files that match `pattern`; on the CPU."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob(f"{pattern}.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                if wanted is None or wanted(name):
                    tensors[name] = file.get_tensor(name)
    return tensors


def remove(path: Path) -> None:
    """Remove a folder, if it is there. It is renamed first, so that half of one is never taken for a checkpoint."""
    if not path.exists():
        return
    if not path.name.startswith("."):
        path = path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}.removed"))
    shutil.rmtree(path)
