"""A pod's effective request: what the scheduler sets aside for it, and so what it costs. Pure.

The sum over its containers, or what its largest init container asks for if that is more; sidecars (init containers
that keep running) count among both. Rule: https://kubernetes.io/docs/concepts/workloads/pods/init-containers/
"""

import functools
import json
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from costopt.accounting.exact import plain
from costopt.schema.resources import parse_quantity


def effective_requests_of(spec: Mapping[str, Any]) -> Mapping[str, str]:
    """The effective request of a pod's spec by resource, in base units; empty if a quantity cannot be read.

    Pods of a gang share one answer, so that thousands of them do not hold thousands of copies.
    """
    asked = [
        [_requests(container) for container in spec.get("containers", [])],
        [[container.get("restartPolicy"), _requests(container)] for container in spec.get("initContainers", [])],
        spec.get("overhead", {}),
    ]
    return _effective(json.dumps(asked, sort_keys=True))


def _requests(container: Mapping[str, Any]) -> Mapping[str, Any]:
    resources = container.get("resources", {})
    return {**resources.get("limits", {}), **resources.get("requests", {})}


@functools.lru_cache(maxsize=1024)
def _effective(text: str) -> Mapping[str, str]:
    containers, inits, overhead = json.loads(text)
    try:
        total: defaultdict[str, Decimal] = defaultdict(Decimal)
        for requests in containers:
            _add(total, requests)
        sidecars: defaultdict[str, Decimal] = defaultdict(Decimal)
        peak: dict[str, Decimal] = {}
        for restart_policy, requests in inits:
            if restart_policy == "Always":
                _add(sidecars, requests)
                _add(total, requests)
                beside: Mapping[str, Decimal] = sidecars
            else:
                alone: defaultdict[str, Decimal] = defaultdict(Decimal, sidecars)
                _add(alone, requests)
                beside = alone
            for name, quantity in beside.items():
                peak[name] = max(peak.get(name, Decimal(0)), quantity)
        held = {name: max(total.get(name, Decimal(0)), peak.get(name, Decimal(0))) for name in {*total, *peak}}
        for name, quantity in overhead.items():
            held[name] = held.get(name, Decimal(0)) + parse_quantity(quantity)
    except ValueError:
        return MappingProxyType({})
    return MappingProxyType({name: plain(quantity) for name, quantity in sorted(held.items()) if quantity})


def _add(total: defaultdict[str, Decimal], requests: Mapping[str, Any]) -> None:
    for name, quantity in requests.items():
        total[name] += parse_quantity(quantity)
