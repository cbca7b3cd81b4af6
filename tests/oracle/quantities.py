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
    """A quantity in base units."""
    match = re.fullmatch(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+)|([A-Za-z]*))", str(text))
    if match is None or not (match[2] or match[3]):
        raise ValueError(f"{text!r} is no quantity")
    behind = match[3] or ""
    digits = Fraction(int(f"{match[2]}{behind}"), 10 ** len(behind))
    base, power = (10, int(match[4])) if match[4] else _POWERS[match[5] or ""]
    return (-1 if match[1] == "-" else 1) * digits * Fraction(base) ** power


def held(spec: Json) -> Quantities:
    """The effective request of a pod."""
    always = [_asked(item) for item in spec["containers"]]
    most: Quantities = {}
    sidecars: list[Quantities] = []
    for item in spec.get("initContainers", []):
        if item.get("restartPolicy") == "Always":
            sidecars.append(_asked(item))
            most = _greater(most, _sum(sidecars))
        else:
            most = _greater(most, _sum([*sidecars, _asked(item)]))
    containers = _greater(most, _sum([*always, *sidecars]))
    of_pod = _asked(spec)
    overhead = {name: quantity(text) for name, text in spec.get("overhead", {}).items()}
    return _sum([{**containers, **of_pod}, overhead])


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
