"""The shell's small files: written whole, looked at if they are there. Only the standard library, for supervisors.

What the job's own processes write, such as a log, they may as well replace by a link or a pipe: that counts as nothing.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from costopt.files import write_atomically
from costopt.hostile import Hostile, open_file


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Replace the file at `path` with `data` as indented JSON."""
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def last_text(path: Path, most_bytes: int = 16384) -> str:
    """The end of a file of any size, its first line perhaps in part; empty when there is no plain file."""
    try:
        with open_file(path) as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - most_bytes))
            return stream.read(most_bytes).decode("utf-8", "replace")
    except (FileNotFoundError, Hostile):
        return ""


def modified_at_ns(path: Path) -> int | None:
    """When the file last changed, in nanoseconds since 1970; None when there is none."""
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return None


def version_of(path: Path) -> tuple[int, int, int] | None:
    """A text that differs after a change of the file: its identity, size and time of change. None: there is no file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
