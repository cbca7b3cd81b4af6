"""What a pod holds, read from its spec in another way than costopt's: the rules of Kubernetes' scheduler.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/ and
https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
"""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

Json = Mapping[str, Any]
Quantities = dict[str, Fraction]

_POWERS = {"n": (10, -9), "u": (10, -6), "m": (10, -3), "": (10, 0)}
_POWERS |= {letter: (10, 3 * power) for power, letter in enumerate("kMGTPE", start=1)}
_POWERS |= {f"{letter}i": (2, 10 * power) for power, letter in enumerate("KMGTPE", start=1)}


def quantity(text: str | int) -> Fraction:
    """A quantity in base units, as the API server keeps it: at most 2^63 - 1, in whole billionths."""
    match = re.fullmatch(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+)|([A-Za-z]*))", str(text))
    if match is None or not (match[2] or match[3]):
        raise ValueError(f"{text!r} is no quantity")
    behind = match[3] or ""
    digits = Fraction(int(f"{match[2]}{behind}"), 10 ** len(behind))
    base, power = (10, int(match[4])) if match[4] else _POWERS[match[5] or ""]
    amount = min(digits * Fraction(base) ** power, Fraction(2**63 - 1))
    billionths = -(-amount * 10**9 // 1)  # what is finer is rounded up, away from zero
    return (-1 if match[1] == "-" else 1) * Fraction(billionths, 10**9)


def held(pod: Json) -> Quantities:
    """What a pod holds: its effective request, where a container that is resized counts with the most it may have."""
    spec, status = pod["spec"], pod["status"]
    always = [_most(item, status) for item in spec["containers"]]
    most: Quantities = {}
    sidecars: list[Quantities] = []
    for item in spec.get("initContainers", []):
        if item.get("restartPolicy") == "Always":
            sidecars.append(_most(item, status))
            most = _greater(most, _sum(sidecars))
        else:
            most = _greater(most, _sum([*sidecars, _asked(item)]))
    containers = _greater(most, _sum([*always, *sidecars]))
    of_pod = {
        name: amount
        for name, amount in _asked(spec).items()
        if name in spec.get("resources", {}).get("requests", {}) or name not in containers
    }
    overhead = {name: quantity(text) for name, text in spec.get("overhead", {}).items()}
    return _sum([{**containers, **of_pod}, overhead])


def _most(item: Json, status: Json) -> Quantities:
    """The most of what a container asks for, was promised and has; what its node can never give does not count."""
    told = [each for each in status.get("containerStatuses", []) if each["name"] == item["name"]]
    given: Quantities = {}
    for each in told:
        promised = {name: quantity(text) for name, text in each.get("allocatedResources", {}).items()}
        given = _greater(given, _greater(promised, _asked(each)))
    in_vain = any(
        (each["type"], each.get("reason")) == ("PodResizePending", "Infeasible") for each in status["conditions"]
    )
    return given if in_vain and given else _greater(_asked(item), given)


def _asked(item: Json) -> Quantities:
    resources = item.get("resources", {})
    merged = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {name: quantity(text) for name, text in merged.items()}


def _sum(parts: Iterable[Quantities]) -> Quantities:
    total: Quantities = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, Fraction()) + amount
    return total


def _greater(one: Quantities, other: Quantities) -> Quantities:
    return {name: max(one.get(name, Fraction()), other.get(name, Fraction())) for name in {*one, *other}}
