"""A checkpoint's files: written so that they last, and read so that damage shows.

write_file, write_tensors    new file, synced -> its record in the manifest
damage_in                    what is wrong with a checkpoint, in words
read_tensors                 tensors by name, from all files of a kind
storage_folder               one of our folders in a storage, made if need be
remove                       a folder is gone at once or still whole
not_writable                 is a failed write worth another try?
"""

import errno
import fnmatch
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from costopt.hostile import Hostile, make_folder, open_file, read_json, real_folder
from costopt_trainer.errors import NotRetryable

FileRecord = dict[str, int | str]
"""What a manifest says of a file: `size` in bytes, `sha256` in hexadecimal."""

FORMAT = "costopt-checkpoint"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"

MAX_FILE_BYTES = 2**30
"""Tensors are serialised to memory and then written, so this bounds what saving needs beside them (a larger tensor has
a file of its own)."""

_FILE_NAME = re.compile(r"state\.json|(model|optimizer|random)-[0-9]{5,9}-[0-9]{5,9}\.safetensors")
"""What a manifest may name: nothing that climbs out of its folder."""
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


def damage_in(
    checkpoint: Path, step: int, job: str | None = None, on_block: Callable[[], object] = lambda: None
) -> str | None:
    """What is wrong with the folder of a job's checkpoint, in words; None if every byte is as it was written.

    `on_block` is called after each part of a file that has been read.
    """
    try:
        files = _manifest(checkpoint, step, job)
    except OSError as error:
        return f"{MANIFEST_FILE}: {error.strerror}"
    except Hostile as error:
        return str(error)
    for name, (size, digest) in files.items():
        try:
            with open_file(checkpoint / name) as stream:
                if os.fstat(stream.fileno()).st_size != size:
                    return f"{name} has {os.fstat(stream.fileno()).st_size} bytes instead of {size}"
                if _digest(stream, on_block) != digest:
                    return f"{name} has other contents than were written"
        except OSError as error:
            return f"{name}: {error.strerror}"
        except Hostile as error:
            return f"{name} {error}"
    return None


def _manifest(checkpoint: Path, step: int | None = None, job: str | None = None) -> dict[str, tuple[int, str]]:
    """Size and sha256 of each file, as a checkpoint's manifest tells them; `step`, `job`: those it must be of.

    A manifest without a job was written before they were told. Raises OSError, and Hostile with what is wrong.
    """
    real_folder(checkpoint)
    try:
        manifest = read_json(checkpoint / MANIFEST_FILE)
    except Hostile as error:
        raise Hostile(f"{MANIFEST_FILE} {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise Hostile(f"{MANIFEST_FILE} is not a manifest")
    if manifest.get("format") != FORMAT or manifest.get("version") != FORMAT_VERSION:
        raise Hostile(f"{MANIFEST_FILE} is of another format than {FORMAT} {FORMAT_VERSION}")
    if step is not None and manifest.get("step") != step:
        raise Hostile(f"{MANIFEST_FILE} is of another step")
    if job is not None and manifest.get("job", job) != job:
        raise Hostile(f"it is of another job, {str(manifest['job'])[:80]!r}")
    files = {}
    for name, record in manifest["files"].items():
        if _FILE_NAME.fullmatch(name) is None:
            raise Hostile(f"{MANIFEST_FILE} names a file that is none of a checkpoint, {name[:80]!r}")
        if not isinstance(record, dict) or type(record.get("size")) is not int or type(record.get("sha256")) is not str:
            raise Hostile(f"{MANIFEST_FILE} is not a manifest")
        files[name] = (record["size"], record["sha256"])
    return files


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
    """Tensors by name, those wanted (None: all), merged from the checkpoint's files that match `pattern`; on the CPU.

    A file that the manifest does not name is none of the checkpoint. Raises OSError, ValueError or SafetensorError if a
    file is not there or none of tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file_name in sorted(fnmatch.filter(_manifest(folder), f"{pattern}.safetensors")):
        open_file(folder / file_name).close()  # no link, no pipe: what follows opens whatever is there
        with safe_open(folder / file_name, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                if wanted is None or wanted(name):
                    tensors[name] = file.get_tensor(name)
    return tensors


def storage_folder(path: Path) -> Path:
    """One of our folders in a storage, made if need be.

    Raises NotRetryable("CheckpointNotWritable") if a link to another place has its name, and OSError.
    """
    try:
        return make_folder(path)
    except Hostile as error:
        if not path.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
        raise NotRetryable("CheckpointNotWritable", str(error)) from error


def remove(path: Path) -> None:
    """Remove a folder, if it is there. It is renamed first, so that half of one is never taken for a checkpoint.

    A link or a file of its name is removed itself, and what the link leads to stays.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    if not path.name.startswith("."):
        path = path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}.removed"))
    shutil.rmtree(path)
