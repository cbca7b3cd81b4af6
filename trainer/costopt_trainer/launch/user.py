"""A user's name, a home and places for caches, for ranks in images that have none.

A pod runs as a user without an entry in passwd, and often only /tmp is writable. torch needs the user's name, triton
and inductor a home, the hub a cache: without them a rank ends in a KeyError before its first line. Values from the
user's image or manifest stay if they are usable.

New folders are in the launcher's own folder, whose name nobody can guess: code is stored in these caches and run from
them, and others who share /tmp could prepare a known name. inductor's own default is such a name.
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
"""Variable -> subfolder of the new folder."""


def missing(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The variables to set: those that are missing, or not writable.

    A home that exists but is not writable is kept for the settings in it; then the caches go elsewhere.
    """
    found = person.missing(environment, str(scratch))
    home = Path(found.get("HOME") or environment.get("HOME") or "/nonexistent")
    if not home.is_dir():
        found["HOME"] = str(scratch)
        home = scratch
    is_usable = home != scratch and os.access(home, os.W_OK | os.X_OK)
    if is_usable and "TORCHINDUCTOR_CACHE_DIR" not in environment:  # else a known name in a shared /tmp
        caches = environment.get("XDG_CACHE_HOME") or found.get("XDG_CACHE_HOME") or home / ".cache"
        found["TORCHINDUCTOR_CACHE_DIR"] = str(Path(caches, "torchinductor"))
    for name, folder in CACHES.items():
        said = environment.get(name)
        if (said is None and not is_usable) or (said is not None and not _can_be_written(Path(said))):
            found[name] = str(scratch / folder)
    return found


def set_defaults(scratch: Path) -> None:
    """Set them for this process and the ranks it starts. `scratch`, which need not exist yet, is only theirs."""
    try:
        found = missing(os.environ, scratch)
        for place in {path for name, path in found.items() if name not in person.NAME_VARIABLES}:
            Path(place).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:  # nothing is writable at all: whoever needs it reports that
        found = person.missing(os.environ, "/")
    os.environ.update(found)


def _can_be_written(path: Path) -> bool:
    """Whether the folder is writable, or can be created."""
    for place in (path, *path.parents):
        if place.exists():
            return os.access(place, os.W_OK | os.X_OK)
    return False
