"""What a node is asked for, and Kubernetes quantities as exact decimals.

Quantity grammar: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import ROUND_UP, Context, Decimal
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from costopt.schema.base import PlainData, Rule, Strict, cel_list

QUANTITY_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"

MAX_QUANTITY = 10**15

MAX_QUANTITY_LENGTH = 32
NOT_A_QUANTITY = "not_a_quantity"


def _quantity(value: Any) -> Any:
    """One mistake for each value, where a union of types would be wrong once for each of them."""
    if isinstance(value, str):
        if len(value) > MAX_QUANTITY_LENGTH:
            raise PydanticKnownError("string_too_long", {"max_length": MAX_QUANTITY_LENGTH})
        if not re.fullmatch(QUANTITY_PATTERN, value):
            raise PydanticKnownError("string_pattern_mismatch", {"pattern": QUANTITY_PATTERN})
    elif type(value) is not int:
        raise PydanticCustomError(NOT_A_QUANTITY, "must be a number or text")
    return value


Quantity = Annotated[
    int | str,
    BeforeValidator(_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY_PATTERN, "maxLength": MAX_QUANTITY_LENGTH}),
]
"""A Kubernetes quantity: "500m", "4", 8, "16Gi". The bounds of numbers are a rule of the model around it: a schema has
none for what may also be text."""

QUANTITY_SENTENCE = f"quantities must be at least 0, and at most {MAX_QUANTITY:,} where they are numbers"


def is_quantity(quantity: int | str) -> bool:
    """Whether a number is within the bounds; what text may be is the pattern's business."""
    return isinstance(quantity, str) or 0 <= quantity <= MAX_QUANTITY


def _may_be_asked_for(resource: str) -> bool:
    return "/" in resource or resource in CONTAINER_RESOURCES or resource.startswith("hugepages-")


def _requests_fit_limits(resources: PlainData) -> bool:
    limits = resources.get("limits", {})
    return all(
        parse_quantity(quantity) <= parse_quantity(limits[name])
        for name, quantity in resources.get("requests", {}).items()
        if name in limits
    )


def _devices_are_limits(resources: PlainData) -> bool:
    limits = resources.get("limits", {})
    return all(
        name in limits and parse_quantity(quantity) == parse_quantity(limits[name])
        for name, quantity in resources.get("requests", {}).items()
        if "/" in name
    )


def cel_quantity(field: str) -> str:
    """The same as a CEL expression over `field`."""
    return f"(type({field}) == string || ({field} >= 0 && {field} <= {MAX_QUANTITY}))"


CONTAINER_RESOURCES = ("cpu", "memory", "ephemeral-storage")
"""What a container may ask for by a bare name. Devices have a domain before theirs: nvidia.com/gpu."""

ResourceName = Annotated[str, StringConstraints(min_length=1, max_length=128)]

_FACTORS = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{suffix + "i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
_GRAMMAR = re.compile(r"([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,6})|([numkMGTPE]|[KMGTPE]i)?)")
_LONGEST = 256
"""Characters of a quantity that are read: far more than any figure needs."""
_LARGEST = Decimal(2**63 - 1)
_SMALLEST = Decimal("1e-9")
"""The API server rounds what is finer up to this, away from zero."""

GPU_RESOURCE = "nvidia.com/gpu"


def parse_quantity(quantity: int | str) -> Decimal:
    """The exact value of a Kubernetes quantity in its base unit (vCPU, bytes, devices).

    All of the grammar is read: a sign, digits before or behind a point, and a suffix (n u m k M G T P E, Ki to Ei) or
    an exponent (1e9, 5E-3). Like the API server, it rounds away from zero to nine decimals, and takes 2**63-1 for
    anything larger. Raises ValueError for what is no quantity.
    """
    text = str(quantity)
    match = _GRAMMAR.fullmatch(text) if len(text) <= _LONGEST and not isinstance(quantity, bool) else None
    if match is None:
        raise ValueError(f"{text[:_LONGEST]!r} is not a Kubernetes quantity")
    sign, digits, exponent, suffix = match.groups()
    number = Decimal(digits)
    if number:
        # An exponent may be anything, a number of as many digits may not be made.
        power = max(-_LONGEST - 100, min(_LONGEST + 100, int(exponent or "0")))
        exact = _QUANTITIES.multiply(_QUANTITIES.scaleb(number, power), _FACTORS[suffix or ""])
        number = min(exact, _LARGEST).quantize(_SMALLEST, rounding=ROUND_UP, context=_QUANTITIES)
        number = number.to_integral_value() if number == number.to_integral_value() else number.normalize(_QUANTITIES)
    return -number if sign == "-" else number


_QUANTITIES = Context(prec=1000)


_CEL_BOTH = "!has(self.requests) || !has(self.limits)"
_CEL_NO_QUANTITY = "!isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name]))"


class NodeResources(Strict):
    """What each node (pod) of a gang is asked for. These are the quantities the bill counts."""

    requests: dict[ResourceName, Quantity] = Field(default_factory=dict, max_length=16)
    """Requested quantities by resource name, as in a pod: cpu in vCPU, memory in bytes. A resource named only in
    `limits` is requested at its limit."""
    limits: dict[ResourceName, Quantity] = Field(default_factory=dict, max_length=16)
    """Upper limits by resource name, as in a pod. Extended resources such as nvidia.com/gpu belong here."""

    rules = (
        Rule(
            cel=" && ".join(
                f"(!has(self.{field}) || self.{field}.all(name, {cel_quantity(f'self.{field}[name]')}))"
                for field in ("requests", "limits")
            ),
            message=QUANTITY_SENTENCE,
            holds=lambda data: all(
                is_quantity(quantity) for field in ("requests", "limits") for quantity in data.get(field, {}).values()
            ),
        ),
        Rule(
            cel=" && ".join(
                f"(!has(self.{field}) || self.{field}.all(name, name.contains('/') || name.startsWith('hugepages-') || "
                f"name in {cel_list(CONTAINER_RESOURCES)}))"
                for field in ("requests", "limits")
            ),
            message="resources must be cpu, memory, ephemeral-storage, hugepages-*, or a device with its domain, such "
            "as nvidia.com/gpu",
            holds=lambda data: all(
                _may_be_asked_for(name) for field in ("requests", "limits") for name in data.get(field, {})
            ),
        ),
        Rule(
            cel=f"{_CEL_BOTH} || self.requests.all(name, !(name in self.limits) || {_CEL_NO_QUANTITY} || "
            "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            message="requests must be at most the limits of the same resources",
            holds=_requests_fit_limits,
        ),
        Rule(
            cel="!has(self.requests) || self.requests.all(name, !name.contains('/') || (has(self.limits) && "
            f"name in self.limits && ({_CEL_NO_QUANTITY} || "
            "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) == 0)))",
            message="devices such as nvidia.com/gpu must be asked for in limits; requests may only repeat the same",
            holds=_devices_are_limits,
        ),
        Rule(
            cel="(has(self.requests) && 'cpu' in self.requests || has(self.limits) && 'cpu' in self.limits) && "
            "(has(self.requests) && 'memory' in self.requests || has(self.limits) && 'memory' in self.limits)",
            message="must ask for cpu and memory (in requests or limits), so that the job's hours can be counted",
            holds=lambda data: {"cpu", "memory"} <= effective_requests(data).keys(),
        ),
    )

    def effective(self) -> dict[str, Decimal]:
        """Requested quantity by resource name in base units, limits filling in what `requests` leaves out."""
        return effective_requests(self.to_plain())

    def without_devices(self) -> Self:
        """The same without devices such as GPUs: what has a domain before its name."""
        asked = {"requests": self.requests, "limits": self.limits}
        kept = {
            field: {name: quantity for name, quantity in quantities.items() if "/" not in name}
            for field, quantities in asked.items()
        }
        return self.model_copy(update=kept)


def effective_requests(resources: PlainData) -> dict[str, Decimal]:
    """The effective request of plain `{requests, limits}` data, in base units (Kubernetes' own defaulting rule)."""
    merged: dict[str, Any] = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {name: parse_quantity(quantity) for name, quantity in merged.items()}


def gpus_per_node(resources: PlainData) -> int:
    """Whole GPUs that plain `{requests, limits}` data asks for."""
    return int(effective_requests(resources).get(GPU_RESOURCE, Decimal(0)))
