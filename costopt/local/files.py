"""Files that are whole or not there, however abruptly their writer ends.

Only the standard library: the supervisor, which must start at once, writes through here too.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path` with `text`: a reader, also after a power cut, sees the old text or the new.

    Raises OSError as the system gives it; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Replace the file at `path` with `data` as indented JSON."""
    write_atomically(path, json.dumps(data, indent=2) + "\n")


def read_if_there(path: Path) -> str | None:
    """The file's text; None when there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def modified_at_ns(path: Path) -> int | None:
    """When the file last changed, in nanoseconds since 1970; None when there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
