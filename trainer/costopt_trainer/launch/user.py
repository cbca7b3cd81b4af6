"""A user's name, a home and places for caches, for ranks in images that have none.

A pod runs as a user without an entry in passwd, and often only /tmp can be written. torch asks for the user's name,
triton and inductor for a home, the hub for a cache: without them a rank ends in a KeyError before its first line. What
the user's image or manifest says stays as long as it can be used.

What is made is made in the launcher's own folder, whose name nobody can guess: code is kept in these caches and run
from them, and whoever shares a /tmp could have prepared a name that is known. inductor's own place is such a name.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from costopt import person

CACHES = {
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "HF_HOME": "huggingface",
    "MPLCONFIGDIR": "matplotlib",
    "CUDA_CACHE_PATH": "cuda",
}
"""Variable -> folder below the place that is made."""


def missing(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The variables to set: what is not said, or cannot be written.

    A home that is there but cannot be written is kept, for the settings in it; the caches then go elsewhere.
    """
    found = person.missing(environment, str(scratch))
    home = Path(found.get("HOME") or environment.get("HOME") or "/nonexistent")
    if not home.is_dir():
        found["HOME"] = str(scratch)
        home = scratch
    is_usable = home != scratch and os.access(home, os.W_OK | os.X_OK)
    if is_usable and "TORCHINDUCTOR_CACHE_DIR" not in environment:  # else a known name in a /tmp that others share
        caches = environment.get("XDG_CACHE_HOME") or found.get("XDG_CACHE_HOME") or home / ".cache"
        found["TORCHINDUCTOR_CACHE_DIR"] = str(Path(caches, "torchinductor"))
    for name, folder in CACHES.items():
        said = environment.get(name)
        if (said is None and not is_usable) or (said is not None and not _can_be_written(Path(said))):
            found[name] = str(scratch / folder)
    return found


def set_defaults(scratch: Path) -> None:
    """Set them for this process and the ranks it starts. `scratch`, which need not be there yet, is theirs alone."""
    try:
        found = missing(os.environ, scratch)
        for place in {path for name, path in found.items() if name not in person.NAME_VARIABLES}:
            Path(place).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:  # nothing can be written at all: whoever needs it says so
        found = person.missing(os.environ, "/")
    os.environ.update(found)


def _can_be_written(path: Path) -> bool:
    """Whether the folder can be written, or made by whoever wants it."""
    for place in (path, *path.parents):
        if place.exists():
            return os.access(place, os.W_OK | os.X_OK)
    return False
