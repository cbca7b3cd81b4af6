"""Folders of a storage: made, replaced and removed whole, whatever is killed meanwhile.

storage_folder    one of our folders in a storage, created if needed
replace_folder    puts a finished folder in the place of an older one
sync_tree         flushes a folder to disk
remove            removes a folder atomically
not_writable      is a failed write worth another try?

Without torch, so that a program that only reports need not import it.
"""

import contextlib
import errno
import os
import secrets
import shutil
from pathlib import Path

from costopt.files import sync_folder
from costopt.hostile import Hostile, make_folder, open_file
from costopt_trainer.errors import NotRetryable

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
"""Write errors that would come back after a restart; others (a network file system's EIO) may pass."""


def not_writable(folder: Path, error: OSError) -> Exception:
    """A NotRetryable that says what to do about a failed write below `folder`, or `error` itself if it may pass."""
    if error.errno not in _FOR_GOOD:
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free some space or use a larger volume"
    else:
        remedy = "it must be a folder that this user may write to"
    return NotRetryable("CheckpointNotWritable", f"cannot write to {folder} ({error.strerror}): {remedy}")


def storage_folder(path: Path) -> Path:
    """One of our folders in a storage, created if needed.

    Raises OSError, and NotRetryable("CheckpointNotWritable") if its name is a link to another place.
    """
    try:
        return make_folder(path)
    except Hostile as error:
        if not path.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
        raise NotRetryable("CheckpointNotWritable", str(error)) from error


def remove(path: Path) -> None:
    """Remove a folder, if it exists. It is renamed first, so that a partial one is never taken for a checkpoint.

    A link or file with that name is itself removed; the link's target stays.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    if not path.name.startswith("."):
        path = path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}.removed"))
    shutil.rmtree(path)


def sync_tree(folder: Path) -> None:
    """Flush `folder` to disk: plain files and names, in it and below. Raises OSError, and Hostile for a link."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            sync_folder(path)
        else:
            with open_file(path) as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def replace_folder(finished: Path, folder: Path) -> None:
    """Flush `finished` to disk and rename it to `folder`, whose older content is removed afterwards.

    Both must be in the same parent folder. Between two renames `folder` is briefly missing; a writer killed just then
    is expected to run again, as every attempt here is.
    """
    sync_tree(finished)
    replaced = folder.with_name(f".{folder.name}.replaced")
    remove(replaced)
    if os.path.lexists(folder):
        folder.rename(replaced)
    finished.rename(folder)
    sync_folder(folder.parent)
    with contextlib.suppress(OSError):
        remove(replaced)
