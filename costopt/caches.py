"""What jobs keep in a storage's cache so as not to make it twice, which of it is in use, and the removal of the rest.

    Cache         one thing that can be made again: the tokens of a text, decoded images, numbers of samples that are
                  kept, a copy, compiled code, a model
    hold          says that a cache is in use, until this process ends
    caches_in     all caches in a folder, the one that was used longest ago first
    too_many      those of them that are too old, or too much
    remove        removes what nobody holds

Beside a cache lie `.<name>.lock`, which its maker locks, and `.<name>.used`, which all who use it lock together; its
time is when the cache was last asked for, and its text what it is of. Both stay, empty or nearly so, when the cache is
removed: a lock file that is removed is a lock that two may hold. Where a file system has no locks nothing is removed by
a job, and `costopt cache clear` says so.

Only the standard library, like `costopt.files`; for the shells and the trainer.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

from costopt.hostile import Hostile, lock_file, open_file, real_folder
from costopt.names import COMPILED_DIR, COPIES_DIR, HUB_DIR

Kind = Literal["Tokens", "Images", "SampleNumbers", "Copy", "CompiledCode", "HubModel"]

OF_DATA: frozenset[Kind] = frozenset({"Tokens", "Images", "SampleNumbers", "Copy"})
"""What `data.cache` bounds."""

_KEY = "[0-9a-f]{32}"
_PARTS = re.compile(rf"\.?(?P<name>{_KEY}(?:\.images|\.numbers)?)(?:\.\w+)*")
"""A key's own folder, its reports, and what makers leave behind: all that begins with the key, hidden or not."""
_KINDS: dict[str, Kind] = {"": "Tokens", ".images": "Images", ".numbers": "SampleNumbers"}
_LOCKS = (".lock", ".used")
_MAX_TOLD = 400
_held: dict[Path, BufferedReader] = {}


@dataclass(frozen=True)
class Cache:
    """One cache."""

    kind: Kind
    folder: Path
    """Where its parts lie."""
    name: str
    parts: tuple[str, ...]
    """Names in `folder`: all that is removed with it."""
    num_bytes: int
    last_used: float
    """Seconds since 1970."""
    of: str
    """What it is of, in words; empty if nobody has said."""


def hold(path: Path, of: str) -> None:
    """Say that the cache `path` is in use until this process ends, by what `of` tells (see Cache.of).

    Waits while it is being removed. A storage without locks, or one that may only be read, is no reason to fail.
    """
    path = path.absolute()
    if path in _held:
        return
    used = _beside(path, ".used")
    with contextlib.suppress(OSError, Hostile):
        _tell(used, of)
    with contextlib.suppress(OSError, Hostile):
        # Only for reading: a file that is held open for writing keeps a volume from being made read-only.
        stream = open_file(used)
        try:
            fcntl.flock(stream, fcntl.LOCK_SH)
        except OSError:
            stream.close()
            raise
        _held[path] = stream


def _tell(used: Path, of: str) -> None:
    """Write down what it is of, and that it is asked for now."""
    descriptor = lock_file(used)
    try:
        text = of.encode("utf-8", "replace")[:_MAX_TOLD]
        if os.pread(descriptor, _MAX_TOLD + 1, 0) != text:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def let_go(path: Path) -> None:
    """Hold it no longer."""
    stream = _held.pop(path.absolute(), None)
    if stream is not None:
        stream.close()


def caches_in(folder: Path, kinds: Iterable[Kind] | None = None) -> list[Cache]:
    """The caches in a storage's cache folder, the one that was used longest ago first. Raises Hostile if a link stands
    for the folder; what is not ours is passed over."""
    if not os.path.lexists(folder):
        return []
    real_folder(folder)
    found = [*_keyed(folder), *_keyed(folder / COPIES_DIR, copies=True)]
    whole: tuple[tuple[str, Kind], ...] = ((COMPILED_DIR, "CompiledCode"), (HUB_DIR, "HubModel"))
    for name, kind in whole:
        if _is_real_folder(folder / name):
            found.append(_cache(kind, folder, name, [name]))
    wanted = None if kinds is None else set(kinds)
    return sorted(
        (cache for cache in found if wanted is None or cache.kind in wanted), key=lambda cache: cache.last_used
    )


def too_many(
    caches: Sequence[Cache], *, older_than: float | None = None, keep_bytes: int | None = None, now: float | None = None
) -> list[Cache]:
    """Of `caches`, the one used longest ago first: those not used for `older_than` seconds, and of the others so many
    that what stays has at most `keep_bytes`."""
    now = time.time() if now is None else now
    left, chosen = sum(cache.num_bytes for cache in caches), []
    for cache in caches:
        is_old = older_than is not None and now - cache.last_used > older_than
        if is_old or (keep_bytes is not None and left > keep_bytes):
            chosen.append(cache)
            left -= cache.num_bytes
    return chosen


def remove(caches: Iterable[Cache]) -> tuple[list[Cache], list[Cache]]:
    """Remove what nobody holds or makes; what was removed, and what was not."""
    removed: list[Cache] = []
    kept: list[Cache] = []
    for cache in caches:
        (removed if _remove(cache) else kept).append(cache)
    return removed, kept


def _remove(cache: Cache) -> bool:
    out_of_the_way = []
    try:
        real_folder(cache.folder)
        path = cache.folder / cache.name
        with _alone(_beside(path, ".lock")), _alone(_beside(path, ".used")):
            for part in cache.parts:
                # Under another name at once, so that nobody finds a half of it; the mark of a removal that was killed.
                trash = cache.folder / f".{cache.name}.{secrets.token_hex(4)}.removed"
                with contextlib.suppress(FileNotFoundError):
                    out_of_the_way.append((cache.folder / part).rename(trash))
    except (OSError, Hostile):
        return False
    finally:
        for trash in out_of_the_way:
            with contextlib.suppress(OSError):
                _delete(trash)
    return True


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock at `path` alone. Raises OSError if others hold it, Hostile if it is no plain file."""
    descriptor = lock_file(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)  # follows no link
    else:
        path.unlink()


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def _keyed(folder: Path, *, copies: bool = False) -> Iterator[Cache]:
    """What is named by a key: each with all parts of that name."""
    parts: dict[str, list[str]] = {}
    for name in sorted(path.name for path in folder.iterdir()) if _is_real_folder(folder) else ():
        match = _PARTS.fullmatch(name)
        if match is not None and not name.endswith(_LOCKS):
            parts.setdefault(match["name"], []).append(name)
    for name, own in parts.items():
        yield _cache("Copy" if copies else _KINDS[Path(name).suffix], folder, name, own)


def _cache(kind: Kind, folder: Path, name: str, parts: Sequence[str]) -> Cache:
    used, of, last_used = folder / f".{name}.used", "", None
    with contextlib.suppress(OSError, Hostile), open_file(used) as stream:
        of = stream.read(_MAX_TOLD).decode("utf-8", "replace")
        last_used = os.fstat(stream.fileno()).st_mtime
    if last_used is None:  # made by an earlier version
        last_used = max((_time(folder / part) for part in parts), default=0.0)
    num_bytes = sum(_size(folder / part) for part in parts)
    return Cache(kind, folder, name, tuple(parts), num_bytes, last_used, of)


def _time(path: Path) -> float:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_mtime
    return 0.0


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; a link counts for itself."""
    num_bytes = 0
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return os.lstat(path).st_size
        for inner, _, files in os.walk(path):
            for file in files:
                with contextlib.suppress(OSError):  # somebody may remove it meanwhile
                    num_bytes += os.lstat(Path(inner, file)).st_size
    return num_bytes


def _is_real_folder(path: Path) -> bool:
    try:
        real_folder(path)
    except (OSError, Hostile):
        return False
    return True
