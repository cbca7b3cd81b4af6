"""Numbers of samples on disk: made once per key, then read by every rank.

    <cache_dir>/<key>.numbers    one line of JSON (key, count, sha256), then little-endian int64 (count,)

The file is made under a lock and renamed when complete; each load checks its hash. One that is damaged, a link, or of
another key is made again.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from costopt.files import write_atomically
from costopt.hostile import open_file, parse_json, real_folder
from costopt_trainer.data.made_once import Kept, made_once

_HEADER_BYTES = 1024


def open_numbers(
    key: str, make: Callable[[], NDArray[np.int64]], cache_dir: Path, *, num_samples: int
) -> NDArray[np.int64]:
    """The numbers of `key`, each in [0, num_samples) and none twice: from the cache, or made now.

    Safe for many processes at once. Raises what `make` raises, and NotRetryable("InvalidData") if the cache cannot be
    written.
    """
    path = cache_dir / f"{key[:32]}.numbers"

    def write() -> None:
        content = make().astype("<i8").tobytes()
        header = {"key": key, "count": len(content) // 8, "sha256": hashlib.sha256(content).hexdigest()}
        write_atomically(path, json.dumps(header).encode() + b"\n" + content)

    return made_once(
        Kept(
            path,
            of=f"{num_samples:,} samples",
            name="cache of selected samples",
            room_for="8 bytes a sample",
            read=lambda: _read(path, key, num_samples),
            make=write,
            phase="Selecting",
        )
    )


def _read(path: Path, key: str, num_samples: int) -> NDArray[np.int64] | None:
    """The numbers in the file, or None if it is missing, damaged or of another key."""
    try:
        real_folder(path.parent)
        with open_file(path) as stream:
            header = parse_json(stream.readline(_HEADER_BYTES))
            count = header["count"]
            if header["key"] != key or type(count) is not int or not 1 <= count <= num_samples:
                return None
            content = stream.read(8 * count + 1)
        if len(content) != 8 * count or hashlib.sha256(content).hexdigest() != header["sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    numbers = np.frombuffer(content, dtype="<i8").astype(np.int64)
    seen = np.zeros(num_samples, dtype=np.bool_)
    if numbers.min() < 0 or numbers.max() >= num_samples:
        return None
    seen[numbers] = True
    return numbers if np.count_nonzero(seen) == count else None
