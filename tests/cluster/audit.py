"""The API server's audit log: who requested what. One line per answered request, at level Metadata."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Request:
    """One request as the audit log has it. Empty text where a request has no such part."""

    user: str
    user_agent: str
    verb: str
    """create, update, patch, delete, deletecollection; get, list, watch."""
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    """The status the client got; 0 if the connection ended before."""

    @property
    def is_write(self) -> bool:
        """Whether it may have changed something."""
        return self.verb in WRITES


def read_requests(path: Path, offset: int = 0) -> Iterator[Request]:
    """All requests logged behind byte `offset`, in the order of their answers. Half a line at the end is left out."""
    with path.open("rb") as log:
        log.seek(offset)
        for line in log:
            if line.endswith(b"\n"):
                yield _request(json.loads(line))


def count_requests(requests: Iterator[Request], *parts: str) -> Counter[tuple[str, ...]]:
    """How many there are of each combination of `parts`, e.g. "verb", "resource"; attributes of Request."""
    return Counter(tuple(str(getattr(request, part)) for part in parts) for request in requests)


def _request(event: dict[str, Any]) -> Request:
    target = event.get("objectRef", {})
    return Request(
        user=event["user"].get("username", ""),
        user_agent=event.get("userAgent", ""),
        verb=event["verb"],
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
    )
