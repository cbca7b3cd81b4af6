"""What one process makes in a storage's cache, and all others read: tokens, decoded images, numbers of samples.

Kept         one such thing: where it lies, and how it is read and made
made_once    it, from the cache or made now
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from costopt import caches
from costopt.hostile import Hostile, make_folder
from costopt.schema.replica import PhaseName
from costopt_trainer.data.locks import locked
from costopt_trainer.errors import NotRetryable

T = TypeVar("T")


def _unknown() -> None:
    return None


@dataclass(frozen=True)
class Kept(Generic[T]):
    """One thing in a cache. Its lock, and the file that says who uses it, lie beside it (see costopt/caches.py)."""

    path: Path
    """File or folder; its folder is the cache."""
    of: str
    """What it is of, for people."""
    name: str
    """The cache's name in errors, such as "cache of images"."""
    room_for: str
    """What there must be room for, in errors."""
    read: Callable[[], T | None]
    """What is there; None if it is missing, damaged, or of another key."""
    make: Callable[[], None]
    """Put it there, whole or not at all, in the place of what is there; called by the holder of its lock."""
    phase: PhaseName
    """What those are in who wait for its maker."""
    made: Callable[[], int | None] = _unknown
    """How many bytes of `num_bytes` its maker has done; None if that is not known."""
    num_bytes: int | None = None
    """All that its maker does."""
    help: Callable[[], object] = _unknown
    """What those do who wait for its maker, again and again."""


def made_once(kept: Kept[T]) -> T:
    """What is kept, from the cache or made now; in use until this process ends. Safe for many processes at once.

    Raises what `read` and `make` raise, but NotRetryable("InvalidData") if the cache cannot be written or is a link.
    """
    cache_dir = kept.path.parent
    caches.hold(kept.path, kept.of)
    found = kept.read()
    if found is not None:
        return found
    try:
        make_folder(cache_dir)
        caches.hold(kept.path, kept.of)
        lock = kept.path.with_name(f".{kept.path.name}.lock")
        with locked(lock, kept.phase, kept.made, kept.num_bytes, kept.help):
            found = kept.read()  # another process may have made it meanwhile
            if found is None:
                kept.make()
                found = kept.read()
    except Hostile as error:
        raise NotRetryable("InvalidData", f"the {kept.name} cannot be used: {error}") from error
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise NotRetryable(
            "InvalidData",
            f"the {kept.name} {cache_dir} must be a writable folder with room for {kept.room_for}, but writing fails: "
            f"{why}",
        ) from error
    if found is None:
        raise OSError(f"{kept.path} reads back otherwise than it was written")
    return found
