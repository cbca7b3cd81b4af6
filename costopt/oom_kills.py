"""Was it the kernel that killed a process, because memory ran out? The cgroup's own count says so.

Only the standard library: a supervisor, which must start at once, reads it too.
"""

import re
from pathlib import Path

_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def count_oom_kills(root: Path = Path("/")) -> int | None:
    """Processes of this process' memory cgroup that were killed for their memory so far; None if nobody counts.

    Reads `memory.events` (cgroup v2) or `memory.oom_control` (v1). In a container the cgroup's own path may not be
    mounted, but its files then lie at the top.
    """
    for path in _candidates(root):
        try:
            if match := _OOM_KILLS.search(path.read_text()):
                return int(match[1])
        except OSError:
            continue
    return None


def _candidates(root: Path) -> list[Path]:
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for membership in memberships:
        _, controllers, group = membership.split(":", 2)
        if controllers == "":
            tops, name = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"], "memory.events"
        elif "memory" in controllers.split(","):
            tops, name = [root / "sys/fs/cgroup/memory"], "memory.oom_control"
        else:
            continue
        found += [top / place / name for top in tops for place in (group.lstrip("/"), "")]
    return found
