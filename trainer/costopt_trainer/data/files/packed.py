"""What is in a packed file, as a stream: bounded in memory, and never silent about a file that is cut short.

packing_of     a file's name -> how it is packed
unpacked_name  the name of what is in it
unpacked       a stream of what is in it
kind_of        what a file is that is no text, by its beginning
is_damage      whether an error says that a packed file is damaged
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from costopt_trainer.data.files.extra import library

PACKINGS = {".gz": "gzip", ".zst": "zstd"}
"""The end of a file's name -> how it is packed."""
_SIGNS: Mapping[bytes, str] = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"\x1f\x8b": "packed by gzip (its name should end in .gz)",
    b"\x28\xb5\x2f\xfd": "packed by zstd (its name should end in .zst)",
    b"PK\x03\x04": "a zip archive",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"%PDF": "a PDF",
    b"SQLite format 3": "a database",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a numpy array",
    b"OggS": "sound",
}
"""How files that are no text begin."""
LOOKED_AT = 4096
"""Bytes at the beginning of a file that tell it from text."""


def packing_of(name: str) -> str | None:
    """How a file of that name is packed; None if it is not."""
    return next((packing for end, packing in PACKINGS.items() if name.lower().endswith(end)), None)


def unpacked_name(name: str) -> str:
    """The name without what says that it is packed."""
    end = next((end for end in PACKINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(end)]


def kind_of(beginning: bytes) -> str | None:
    """What a file that begins so is, in words, if that is no text; None: it may be text."""
    known = next((words for sign, words in _SIGNS.items() if beginning.startswith(sign)), None)
    if known is not None or b"\0" not in beginning[:LOOKED_AT]:
        return known
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning[:LOOKED_AT])
    except UnicodeDecodeError:
        return "binary"
    return None


@contextmanager
def unpacked(path: Path, packing: str | None, name: str) -> Iterator[BinaryIO]:
    """The content of the file at `path`. Raises what `is_damage` tells, and OSError. `name` is its name in errors."""
    with path.open("rb") as stream:
        if packing is None:
            yield stream
        elif packing == "gzip":
            with gzip.GzipFile(fileobj=stream) as content:
                yield cast(BinaryIO, content)
        else:  # The package zstandard takes the beginning of a file for the whole, Arrow's does not.
            arrow = library("pyarrow", name)
            with BufferedReader(arrow.CompressedInputStream(arrow.PythonFile(stream, "r"), packing)) as content:
                yield content


def is_damage(error: Exception) -> bool:
    """Whether it says that what is packed is cut short or damaged, and not that reading failed."""
    if isinstance(error, OSError):  # Arrow's own have no number
        return isinstance(error, gzip.BadGzipFile) or error.errno is None
    return isinstance(error, EOFError | zlib.error)
