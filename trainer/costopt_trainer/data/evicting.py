"""Removes from a storage's cache what is too old or too much, as `data.cache` says: once a job has its own data."""

import contextlib
from pathlib import Path

from costopt import caches
from costopt.hostile import Hostile
from costopt.schema.data_cache import CacheLimits

DAY_SECONDS = 86_400


def evict(cache_dir: Path, limits: CacheLimits | None) -> tuple[str, ...]:
    """A line for the log about what was removed. May be called by several ranks and jobs at once, and never fails."""
    if limits is None:
        return ()
    removed: list[caches.Cache] = []
    with contextlib.suppress(OSError, Hostile):
        chosen = caches.too_many(
            caches.caches_in(cache_dir, caches.OF_DATA),
            older_than=None if limits.max_age_days is None else limits.max_age_days * DAY_SECONDS,
            keep_bytes=limits.max_bytes,
        )
        removed, _ = caches.remove(chosen)
    if not removed:
        return ()
    num_bytes = sum(cache.num_bytes for cache in removed)
    return (f"{len(removed)} caches of {num_bytes:,} bytes, which nobody uses, are removed (data.cache)",)
