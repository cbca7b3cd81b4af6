"""The shell's small files: written whole, read if they are there. Only the standard library, for the supervisor."""

import json
from collections.abc import Mapping
from pathlib import Path

from costopt.files import write_atomically


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Replace the file at `path` with `data` as indented JSON."""
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def read_if_there(path: Path) -> str | None:
    """The file's text; None when there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def last_text(path: Path, most_bytes: int = 16384) -> str:
    """The end of a file of any size, its first line perhaps in part; empty when there is no file."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - most_bytes))
            return stream.read(most_bytes).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def modified_at_ns(path: Path) -> int | None:
    """When the file last changed, in nanoseconds since 1970; None when there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def version_of(path: Path) -> tuple[int, int, int] | None:
    """Differs once the file has changed: which one it is, its size, and when it last changed. None: there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
