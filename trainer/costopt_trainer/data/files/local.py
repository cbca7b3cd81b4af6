"""Files of this machine: which of them are data, and in which order.

matching_files    the files of a folder whose name matches, in reading order
globbed           what matches a pattern such as data/*.txt
reading_order     the key by which files are sorted
unreadable        the error for a file that is not there, or may not be read

Files come in the order of a hash of their relative path, so that the held-out end of the data is not "everything that
begins with z".
"""

import errno
import fnmatch
import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from costopt_trainer.data.files.packed import packing_of, unpacked_name
from costopt_trainer.data.storages import is_storage, writing_job
from costopt_trainer.errors import NotRetryable

Wanted = Callable[[str], bool]
"""Whether a file of a folder is data, by its name."""


def named_like(pattern: str) -> Wanted:
    """Whether a file's name matches; hidden ones do if the pattern begins with a dot."""

    def wanted(name: str) -> bool:
        return fnmatch.fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))

    return wanted


def reading_order(relative: str) -> bytes:
    """What files are sorted by: a hash of the path below what the settings name."""
    return hashlib.sha256(os.fsencode(relative)).digest()


def is_wanted(name: str, beside: set[str], wanted: Wanted) -> bool:
    """Whether a file is data: by its name, or that of what is packed in it if that does not lie beside it, too."""
    if wanted(name):
        return True
    inner = unpacked_name(name)
    return packing_of(name) is not None and inner not in beside and wanted(inner)


def matching_files(
    root: Path, wanted: Wanted, skip: frozenset[str] = frozenset(), own_folder: Path | None = None
) -> Iterator[Path]:
    """Plain files below `root`, in reading order.

    Hidden folders are passed over: a mounted ConfigMap keeps second copies in one.
    """
    found = list(_walk(root, wanted, skip, own_folder))
    found.sort(key=lambda path: reading_order(path.relative_to(root).as_posix()))
    for path in found:
        if stat.S_ISREG(status_of(path, str(path)).st_mode):
            yield path


def globbed(pattern: str, own_folder: Path | None) -> tuple[Path, list[Path]]:
    """The folder above the first wildcard of `pattern`, and what matches it, without what jobs write."""
    parts = Path(pattern).parts
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    hits = (Path(hit) for hit in glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute one
    return Path(*parts[:fixed]), sorted(hit for hit in hits if writing_job(hit, own_folder) is None)


def _walk(root: Path, wanted: Wanted, skip: frozenset[str], own_folder: Path | None) -> Iterator[Path]:
    """What is wanted below `root` and no folder. Links are followed, each real folder is visited once.

    Storages of jobs are passed over, the job's own and those of others, and links to what a job writes.
    """
    visited = set() if own_folder is None else {os.path.realpath(own_folder)}
    pending = [root]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        if is_storage(folder):
            continue
        try:
            entries = sorted(folder.iterdir())
            entries = [entry for entry in entries if not (entry.is_symlink() and writing_job(entry, own_folder))]
            folders = [entry for entry in entries if entry.is_dir()]
        except OSError as error:
            raise unreadable(str(folder), error) from error
        files = sorted(set(entries) - set(folders))
        beside = {file.name for file in files}
        yield from (file for file in files if is_wanted(file.name, beside, wanted))
        pending += [entry for entry in folders if not entry.name.startswith(".") and entry.name not in skip]


def status_of(path: Path, name: str) -> os.stat_result:
    """The file's status. Raises NotRetryable("InvalidData"), in which it is called `name`."""
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: OSError | ValueError) -> NotRetryable:
    """What to raise if opening or reading `name` has failed: it is not there, or may not be read."""
    if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
        why = error.strerror or type(error).__name__
        return NotRetryable("InvalidData", f"{name} must be readable by the user that trains, but reading fails: {why}")
    return NotRetryable(
        "InvalidData", f"{name} must exist on the machine (or in the pod) that trains, but does not{_looked_in(name)}"
    )


def _looked_in(name: str) -> str:
    """Where a relative path was looked for: a job may be resumed from another folder."""
    return "" if name.rpartition(": ")[2].startswith("/") else f"; a relative path begins at {Path.cwd()}"
