"""Files behind a URL, copied once into the cache that all ranks share, by the library fsspec.

    <cache_dir>/copies/<hash of the URL>/<hash of its version>    the file, whole
                       .<hash of the URL>.partial/                one on its way, made by the holder of the lock

A copy serves as long as size and version (ETag, time) behind the URL are what they were; another version replaces it.
So data is read as often as need be, at the price of its size on the job's storage, and what is read is what was hashed.
"""

import errno
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from costopt import caches
from costopt.files import sync_folder
from costopt.hostile import Hostile, make_folder, open_file
from costopt.names import COPIES_DIR
from costopt.schema.data_places import has_secret
from costopt_trainer.data.files.clients import client_options
from costopt_trainer.data.files.extra import library
from costopt_trainer.data.files.found import DataFile
from costopt_trainer.data.files.local import Wanted, is_wanted, reading_order
from costopt_trainer.data.files.places import shown
from costopt_trainer.data.files.troubles import Unreachable, patiently
from costopt_trainer.data.locks import locked
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove

AT_ONCE = 8
"""Files copied at a time."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_VERSION = ("ETag", "etag", "md5", "md5Hash", "crc32c", "generation", "version_id", "content_md5", "mtime")
_TIMES = ("Content-MD5", "Last-Modified", "LastModified", "last_modified", "updated", "modified", "created")
"""What libraries call a file's version. Times count where there is nothing better."""


@dataclass(frozen=True)
class _Remote:
    """A file behind a URL."""

    files: Any
    """fsspec's file system."""
    path: str
    """As that file system has it."""
    name: str
    scheme: str
    relative: str
    size: int | None
    version: str
    is_named: bool


def fetch(place: str, setting: str, wanted: Wanted, cache_dir: Path | None) -> Iterator[DataFile]:
    """The files behind the URL `place`: one, those of a folder that are `wanted`, or those that match a pattern.

    Raises NotRetryable("InvalidData") for what must be mended, and Unreachable after a few tries.
    """
    if has_secret(place) or "::" in place:
        raise NotRetryable(
            "InvalidData",
            f"{setting}: {shown(place)} must be a plain URL without a password, token or signature; give credentials "
            "in the environment of the pod",
        )
    if cache_dir is None:
        raise ValueError("a URL needs a folder for its copies")
    name, scheme = f"{setting}: {shown(place)}", place.partition("://")[0].lower()
    system, path = patiently(name, scheme, lambda: _file_system(place, name, scheme))
    with phase("ReadingData") as pieces, ThreadPoolExecutor(AT_ONCE) as pool:
        found = patiently(name, scheme, lambda: _listed(system, path, name, scheme, wanted))
        pieces.done()
        found.sort(key=lambda remote: reading_order(remote.relative))
        for file in pool.map(_Copier(cache_dir, pieces.done).copied, found):
            pieces.done()
            yield file


class _Copier:
    """Copies the files of one place, until it can no longer be reached: then no other file is tried in vain."""

    def __init__(self, cache_dir: Path, on_piece: Callable[[], object]) -> None:
        self._cache_dir, self._on_piece = cache_dir, on_piece
        self._trouble: Unreachable | None = None

    def copied(self, remote: _Remote) -> DataFile:
        """May be called by several threads."""
        if self._trouble is not None:
            raise self._trouble
        try:
            return _copied(remote, self._cache_dir, self._on_piece)
        except Unreachable as trouble:
            self._trouble = self._trouble or trouble
            raise


def _file_system(place: str, name: str, scheme: str) -> tuple[Any, str]:
    core = library("fsspec.core", name)
    try:
        system, path = core.url_to_fs(place, **client_options(scheme, name))
    except ImportError as error:
        known = library("fsspec.registry", name).known_implementations.get(scheme, {})
        package = str(known.get("class", "")).partition(".")[0]
        which = f"the package {package}" if package and package != "fsspec" else "a package of its own"
        raise NotRetryable(
            "InvalidData",
            f"{name} must be read with {which}, which is not installed: install it beside costopt, such as in the "
            "image of the pod",
        ) from error
    except ValueError as error:
        raise NotRetryable("InvalidData", f"{name} must be a URL of a kind that fsspec knows") from error
    return system, path


def _listed(system: Any, path: str, name: str, scheme: str, wanted: Wanted) -> list[_Remote]:
    """What is behind the URL, with its version."""
    is_web = scheme in ("http", "https")
    if is_web and path.partition("?")[0].endswith("/"):
        raise NotRetryable("InvalidData", f"{name} must be the URL of a file, for a web server has no folders")
    system.invalidate_cache()
    if glob.has_magic(path.partition("?")[0]) and not is_web:
        root = path[: path.rfind("/", 0, min(path.find(sign) for sign in "*?[" if sign in path)) + 1]
        hits = {hit: info for hit, info in system.glob(path, detail=True).items() if info["type"] == "file"}
        if not hits:
            raise NotRetryable("InvalidData", f"{name} must match files, but matches none")
        return [_remote(system, hit, hit[len(root) :], scheme, info) for hit, info in hits.items()]
    info = system.info(path)
    if info["type"] == "file":
        file = _remote(system, path, path.partition("?")[0].rpartition("/")[2], scheme, info)
        return [replace(file, is_named=True)]
    root = path.rstrip("/") + "/"
    below = system.find(path, detail=True)
    in_folders: dict[str, set[str]] = {}
    for file in below:
        folder, _, base = file.rpartition("/")
        in_folders.setdefault(folder, set()).add(base)
    return [
        _remote(system, f"{folder}/{base}", f"{folder}/{base}"[len(root) :], scheme, below[f"{folder}/{base}"])
        for folder, bases in in_folders.items()
        if not any(part.startswith(".") for part in f"{folder}/"[len(root) :].split("/"))
        for base in bases
        if is_wanted(base, bases, wanted)
    ]


def _remote(system: Any, path: str, relative: str, scheme: str, info: Mapping[str, Any]) -> _Remote:
    marks = {key: str(info[key]) for key in _VERSION if info.get(key) is not None}
    marks = marks or {key: str(info[key]) for key in _TIMES if info.get(key) is not None}
    size = info.get("size")
    version = hashlib.sha256(json.dumps([size, marks], sort_keys=True).encode()).hexdigest()[:32]
    base = path.partition("?")[0]
    told = base if "://" in base else f"{scheme}://{base.lstrip('/')}"
    return _Remote(system, path, told, scheme, relative, size, version, is_named=False)


def _copied(remote: _Remote, cache_dir: Path, on_piece: Callable[[], object]) -> DataFile:
    """The file's copy, made unless it is there."""
    own = hashlib.sha256(f"{remote.scheme} {remote.path}".encode()).hexdigest()[:32]
    copies = cache_dir / COPIES_DIR
    folder, on_its_way = copies / own, copies / f".{own}.partial"
    copy = folder / remote.version
    try:
        caches.hold(folder, remote.name)
        if not _is_whole(copy, remote):
            make_folder(cache_dir)
            make_folder(copies)
            caches.hold(folder, remote.name)
            made = partial(_size, on_its_way / remote.version)
            with locked(copies / f".{own}.lock", "ReadingData", made, remote.size):
                if not _is_whole(copy, remote):  # another rank may have made it meanwhile
                    _make(folder, on_its_way, remote, on_piece)
    except Hostile as error:
        raise NotRetryable("InvalidData", f"the cache of copies cannot be used: {error}") from error
    except OSError as error:
        raise _no_room(copies, error) from error
    return DataFile(copy, remote.name, remote.relative, copy.stat().st_size, remote.is_named)


def _make(folder: Path, on_its_way: Path, remote: _Remote, on_piece: Callable[[], object]) -> None:
    """Copy the file into `folder`, replacing it; the caller holds its lock."""
    try:
        patiently(remote.name, remote.scheme, lambda: _copy(remote, on_its_way, on_piece))
        remove(folder)
        on_its_way.replace(folder)
    finally:
        remove(on_its_way)
    sync_folder(folder.parent)


def _is_whole(copy: Path, remote: _Remote) -> bool:
    have = _size(copy)
    return have is not None and remote.size in (None, have)


def _size(path: Path) -> int | None:
    try:
        with open_file(path) as stream:
            return stream.seek(0, 2)
    except (OSError, Hostile):
        return None


def _copy(remote: _Remote, folder: Path, on_piece: Callable[[], object]) -> None:
    """The whole file in `folder`, which is made anew. Raises what a library raises."""
    callbacks = library("fsspec.callbacks", remote.name)

    class Told(callbacks.Callback):  # type: ignore[name-defined]
        def call(self, *_arguments: object, **_also: object) -> None:
            on_piece()

    try:
        remove(folder)
        folder.mkdir()
    except OSError as error:
        raise _no_room(folder.parent, error) from error
    path = folder / remote.version
    try:
        remote.files.get_file(remote.path, str(path), callback=Told())
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(folder.parent, error) from error
        raise
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        raise ConnectionError("the file ended early")
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _no_room(cache: Path, error: OSError) -> NotRetryable:
    why = error.strerror or type(error).__name__
    return NotRetryable(
        "InvalidData", f"the cache {cache} must be a writable folder with room for copies, but writing fails: {why}"
    )
