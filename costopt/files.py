"""Files that are either whole or not there: every file another process may read is written through here.

A reader that opens the path sees the old bytes or the new ones, never a part, also after a power cut: the bytes go to
a temporary file in the same folder (a rename across file systems would be a copy), are synced, and renamed over.
Only the standard library: a supervisor, which must start at once, writes through here too.
"""

import contextlib
import os
import secrets
from pathlib import Path

from costopt.names import STORAGE_MARK


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace the file at `path` with `content`, creating it if need be; its folder must exist.

    `durable` False: a power cut may leave the file empty; for what only running processes read.

    Raises OSError as the system gives it (ENOSPC, EACCES, ENOENT, ...); the old file, if any, is then untouched and no
    temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        # Not tempfile.mkstemp: its mode 0600 would hide the file from a reader that runs as another user.
        with temporary.open("xb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def mark_storage(folder: Path) -> None:
    """Say in `folder` that a job keeps its things there: a search for data then passes over it. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        (folder / STORAGE_MARK).open("x").close()


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut. Raises OSError as the system gives it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
