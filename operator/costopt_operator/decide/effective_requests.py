"""The effective request of a pod: what the scheduler reserves for it, and so what is billed. Pure.

The sum over its containers, or the request of its largest init container if that is larger; sidecars (init containers
that keep running) count in both. A pod-level request takes precedence over those of its containers. While a container
is resized in place, the larger of requested and actual counts; if its node cannot do the resize, only the actual.
Rules: https://kubernetes.io/docs/concepts/workloads/pods/init-containers/ and
https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
"""

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from costopt.accounting.exact import total
from costopt.accounting.quantities import bounded
from costopt.schema.resources import parse_quantity

Quantities = dict[str, Decimal]


class Requests(NamedTuple):
    """What a pod holds."""

    quantities: Mapping[str, str]
    """By resource, in base units, as plain numbers; only values above 0."""
    unread: frozenset[str] = frozenset()
    """Resources with a quantity that could not be read and is left out."""
    merged: bool = False
    """There are more resources than are kept apart; the others count as one."""


def effective_requests_of(spec: Mapping[str, Any], status: Mapping[str, Any] = MappingProxyType({})) -> Requests:
    """The effective request of a pod by resource, from its spec and the actual resources in its status.

    Pods of a gang share one result, so that thousands of pods do not hold thousands of copies.
    """
    statuses = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    has = {item.get("name"): _has(item) for item in statuses}
    conditions = [item for item in status.get("conditions") or [] if item.get("type") == "PodResizePending"]
    impossible = any(item.get("reason") == "Infeasible" and item.get("status") == "True" for item in conditions)

    def asked(container: Mapping[str, Any]) -> list[Any]:
        real = has.get(container.get("name"), [])
        return real if impossible and real else [_asked(container.get("resources")), *real]

    everything = [
        [asked(container) for container in spec.get("containers") or []],
        [[container.get("restartPolicy"), asked(container)] for container in spec.get("initContainers") or []],
        [_asked(spec.get("resources"), whole_pod=True), *_has(status)],
        spec.get("overhead") or {},
    ]
    return _effective(json.dumps(everything, sort_keys=True))


def _asked(resources: Mapping[str, Any] | None, *, whole_pod: bool = False) -> Mapping[str, Any]:
    requests, limits = ((resources or {}).get(part) or {} for part in ("requests", "limits"))
    # The API server fills in a pod's own requests: a limit alone does not say what is reserved.
    return requests if whole_pod else {**limits, **requests}


def _has(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What it actually has: as its node runs it, and as its node allocated it."""
    parts = [_asked(status.get("resources")), status.get("allocatedResources")]
    return [part for part in parts if part]


@functools.lru_cache(maxsize=1024)
def _effective(text: str) -> Requests:
    containers, inits, pod, overhead = json.loads(text)
    unread: set[str] = set()
    together: defaultdict[str, Decimal] = defaultdict(Decimal)
    for requests in containers:
        _add(together, _most(requests, unread))
    sidecars: defaultdict[str, Decimal] = defaultdict(Decimal)
    peak: Quantities = {}
    for restart_policy, requests in inits:
        own = _most(requests, unread)
        beside = defaultdict(Decimal, sidecars)
        _add(beside, own)
        if restart_policy == "Always":
            _add(together, own)
            sidecars = beside
        peak = _larger(peak, beside)
    held = _larger(together, peak)
    held |= {name: amount for name, amount in _most(pod, unread).items() if _is_asked_of_pods(name)}
    _add(held, _most([overhead], unread))
    told, merged = bounded({name: amount for name, amount in held.items() if amount})
    return Requests(MappingProxyType(dict(told)), frozenset(unread), merged)


def _is_asked_of_pods(name: str) -> bool:
    return name in ("cpu", "memory") or name.startswith("hugepages-")


def _most(alternatives: Iterable[Mapping[str, Any]], unread: set[str]) -> Quantities:
    """The largest quantity of each resource; each unreadable one is noted and left out."""
    most: Quantities = {}
    for requests in alternatives:
        for name, text in requests.items():
            try:
                amount = max(Decimal(0), parse_quantity(text))
            except ValueError:
                unread.add(name)
            else:
                most[name] = max(most.get(name, amount), amount)
    return most


def _add(sums: Quantities, requests: Quantities) -> None:
    for name, amount in requests.items():
        sums[name] = total((sums.get(name, Decimal(0)), amount))


def _larger(one: Quantities, other: Quantities) -> Quantities:
    return {name: max(one.get(name, Decimal(0)), other.get(name, Decimal(0))) for name in {**one, **other}}
