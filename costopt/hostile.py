"""Files and JSON that anybody may have written: read with bounds, or refused in one sentence.

    parse_json    bytes -> plain JSON data
    read_file     a plain file's bytes
    read_json     both
    open_file     a plain file, open for reading
    append_file   likewise, made if need be, for writing at its end
    lock_file     likewise, made if need be, as a descriptor to lock
    real_folder   a folder that is one, and no link to another place
    make_folder   likewise, made if need be
    is_file_name  whether a name stays in its folder

A job's storage may be a claim that other jobs write to as well. So a name there can be a link out of the storage, a
pipe that never ends, or JSON that is too deep for a stack and too large for memory. What is refused raises ValueError
(Hostile), whose text says what would be right; what cannot be read raises OSError, as the system gives it.

The check is of the moment: whoever may write to a storage can change it between a look and the next.
Only the standard library, like `costopt.files`.
"""

import json
import math
import os
import stat
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 2**22
"""4 MiB: the manifest of a checkpoint of ten thousand files has a third. Parsed, it is at most 40 times larger."""
MAX_JSON_DEPTH = 32
"""Our own go down to 8. Whoever walks through the data with a function that calls itself is safe."""
MAX_JSON_INTEGER = 2**63 - 1
"""What 64 bits hold, and so what an API server does."""


class Hostile(ValueError):
    """A file that is not what its place asks for; the message says what would be right."""


def parse_json(content: bytes, *, max_bytes: int = MAX_JSON_BYTES, large_integers: bool = False) -> Any:
    """The JSON data in `content`, UTF-8. With `large_integers` one that 64 bits do not hold is the largest that they
    do: libraries write down "no limit" so.

    Raises Hostile if it is longer than `max_bytes`, deeper than MAX_JSON_DEPTH, no JSON, or holds a number or text that
    cannot be passed on: NaN, an infinity, an integer of more than 64 bits, half of a surrogate pair.
    """
    if len(content) > max_bytes:
        raise Hostile(f"must be JSON of at most {max_bytes} bytes, but has {len(content)}")
    try:
        integer = _held_integer if large_integers else _integer
        data = json.loads(content.decode("utf-8"), parse_constant=_no_number, parse_float=_finite, parse_int=integer)
        _walk(data)
    except Hostile:
        raise
    except RecursionError as error:
        raise Hostile(f"must be JSON of at most {MAX_JSON_DEPTH} levels") from error
    except ValueError as error:
        raise Hostile("must be JSON") from error
    return data


def _no_number(text: str) -> float:
    raise Hostile(f"must be JSON, whose numbers are finite, but holds {text}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number("a number that is too large")


def _integer(text: str) -> int:
    # By its length first: Python's own conversion takes the square of it.
    if len(text) <= len(str(-MAX_JSON_INTEGER)) and abs(number := int(text)) <= MAX_JSON_INTEGER:
        return number
    raise Hostile("must be JSON whose integers have at most 64 bits")


def _held_integer(text: str) -> int:
    try:
        return _integer(text)
    except Hostile:
        return -MAX_JSON_INTEGER if text.startswith("-") else MAX_JSON_INTEGER


def _walk(data: Any) -> None:
    """Level by level, so that no depth can exhaust the stack."""
    level = [data]
    for _ in range(MAX_JSON_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                item.encode()  # half of a surrogate pair: UnicodeEncodeError, a ValueError
        if not below:
            return
        level = below
    raise Hostile(f"must be JSON of at most {MAX_JSON_DEPTH} levels")


def is_file_name(name: str) -> bool:
    """Whether `name` names a file in a folder, and nothing outside of it or below."""
    return 0 < len(name) <= 255 and name not in (".", "..") and "/" not in name and "\0" not in name


def open_file(path: Path) -> BufferedReader:
    """The plain file at `path`, open for reading. Raises Hostile if a link, a pipe, a device or a folder is there."""
    return os.fdopen(_open(path, os.O_RDONLY), "rb")


def append_file(path: Path) -> BufferedWriter:
    """The plain file at `path`, made if it is not there, for writing at its end. Raises Hostile as `open_file` does."""
    return os.fdopen(_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def lock_file(path: Path) -> int:
    """The plain file at `path`, made if it is not there, open for reading and writing. Raises Hostile likewise."""
    return _open(path, os.O_RDWR | os.O_CREAT)


def _open(path: Path, how: int) -> int:
    try:
        # Without O_NONBLOCK the opening of a pipe waits for somebody at its other end.
        descriptor = os.open(path, how | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise Hostile("must be a file, but is a link") from error
        if path.is_dir() or path.is_fifo():
            raise Hostile("must be a plain file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Hostile("must be a plain file")
    return descriptor


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a plain file. Raises Hostile if there are more than `max_bytes`, and as `open_file` does."""
    with open_file(path) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Hostile(f"must have at most {max_bytes} bytes")
    return content


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The JSON data of a plain file. Raises Hostile as `read_file` and `parse_json` do."""
    return parse_json(read_file(path, max_bytes=max_bytes), max_bytes=max_bytes)


def real_folder(path: Path) -> Path:
    """`path`, which is a folder and no link to one. Raises Hostile."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise Hostile(f"{path} must be a folder, but is a link to another place: remove the link")
    if not stat.S_ISDIR(mode):
        raise Hostile(f"{path} must be a folder")
    return path


def make_folder(path: Path) -> Path:
    """`path`, made with its parents if it is not there; only the last name may not be a link. Raises Hostile."""
    try:
        return real_folder(path)
    except FileNotFoundError:
        path.mkdir(parents=True, exist_ok=True)
        return real_folder(path)
