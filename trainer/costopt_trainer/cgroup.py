"""How many processors this container may use, which is often less than the machine has."""

import os
from pathlib import Path


def usable_processors(root: Path = Path("/")) -> int:
    """Processors of this process' affinity, or of its cgroup's quota (rounded down, at least 1) if that is less."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root / "sys/fs/cgroup")
    return mine if quota is None else max(1, min(mine, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Processors' worth of time per period at the container's own cgroup, version 2 or 1; None if unlimited."""
    try:
        allowed, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return int(allowed) / int(period) if allowed.strip() not in ("max", "-1") else None
