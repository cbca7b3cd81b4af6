"""The audit log with its times, and figures made of it. Times are the API server's own, to the microsecond."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cluster.audit import WRITES


@dataclass(frozen=True, slots=True)
class Timed:
    """One answered request."""

    user: str
    verb: str
    resource: str
    """With its subresource, as in pods/status."""
    namespace: str
    name: str
    code: int
    received: float
    """When the API server had the request; seconds since 1970."""
    answered: float

    @property
    def is_write(self) -> bool:
        """Whether it may have changed something."""
        return self.verb in WRITES


def read_timed(path: Path, offset: int = 0) -> list[Timed]:
    """All requests logged behind byte `offset`; half a line at the end is left out."""
    with path.open("rb") as log:
        log.seek(offset)
        return [_timed(json.loads(line)) for line in log if line.endswith(b"\n")]


def _timed(event: dict[str, dict[str, str]]) -> Timed:
    target = event.get("objectRef", {})
    resource = "/".join(filter(None, (target.get("resource", ""), target.get("subresource", ""))))
    return Timed(
        user=event["user"].get("username", ""),
        verb=str(event["verb"]),
        resource=resource,
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=int(event.get("responseStatus", {}).get("code", 0)),
        received=_seconds(str(event["requestReceivedTimestamp"])),
        answered=_seconds(str(event["stageTimestamp"])),
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def created(requests: Iterable[Timed], resource: str) -> dict[str, Timed]:
    """The request that created each object of a kind, by the object's name."""
    return {
        each.name: each
        for each in requests
        if each.verb == "create" and each.resource == resource and each.code in (200, 201)
    }


def start_times(requests: Sequence[Timed], child_suffix: str) -> list[float]:
    """Per job: seconds from the API server having it to its child Job's creation being answered."""
    jobs, children = created(requests, "costoptjobs"), created(requests, "jobs")
    return [
        children[f"{name}{child_suffix}"].answered - job.received
        for name, job in jobs.items()
        if f"{name}{child_suffix}" in children
    ]


def per_job(requests: Iterable[Timed], num_jobs: int, user: str | None = None) -> dict[str, float]:
    """Requests per job by verb and resource, the most frequent first; leases left out."""
    counts = Counter(
        f"{each.verb} {each.resource}" + (f" ({each.code})" if each.code >= 400 else "")
        for each in requests
        if (user is None or each.user == user) and each.resource != "leases"
    )
    return {what: count / num_jobs for what, count in counts.most_common()}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
