"""What a node is asked for, and Kubernetes quantities as exact decimals.

Quantity grammar: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, StringConstraints, WithJsonSchema

from costopt.schema.base import PlainData, Rule, Strict

QUANTITY_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"

Quantity = Annotated[
    Annotated[int, Field(ge=0, le=10**15)] | Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=32)],
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY_PATTERN, "maxLength": 32}),
]
"""A Kubernetes quantity: "500m", "4", 8, "16Gi"."""

ResourceName = Annotated[str, StringConstraints(min_length=1, max_length=128)]

_FACTORS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTP", start=1)},
    **{suffix + "i": Decimal(1024) ** power for power, suffix in enumerate("KMGTP", start=1)},
}

GPU_RESOURCE = "nvidia.com/gpu"


def parse_quantity(quantity: int | str) -> Decimal:
    """The exact value of a Kubernetes quantity in its base unit (vCPU, bytes, devices).

    Raises ValueError for text that is no quantity.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]{1,9})?)([A-Za-z]*)", str(quantity))
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{quantity!r} is not a Kubernetes quantity")
    return Decimal(match[1]) * _FACTORS[match[2]]


class NodeResources(Strict):
    """What each node (pod) of a gang is asked for. These are the quantities the bill counts."""

    requests: dict[ResourceName, Quantity] = Field(default_factory=dict, max_length=16)
    """Requested quantities by resource name, as in a pod: cpu in vCPU, memory in bytes. A resource named only in
    `limits` is requested at its limit."""
    limits: dict[ResourceName, Quantity] = Field(default_factory=dict, max_length=16)
    """Upper limits by resource name, as in a pod. Extended resources such as nvidia.com/gpu belong here."""

    rules = (
        Rule(
            cel="(!has(self.requests) || self.requests.all(r, type(self.requests[r]) == string || "
            "self.requests[r] >= 0)) && (!has(self.limits) || self.limits.all(r, type(self.limits[r]) == string || "
            "self.limits[r] >= 0))",
            message="quantities must be at least 0",
            holds=lambda data: True,  # noqa: ARG005 -- Quantity itself refuses them in Python, with the field's name
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


def effective_requests(resources: PlainData) -> dict[str, Decimal]:
    """The effective request of plain `{requests, limits}` data, in base units (Kubernetes' own defaulting rule)."""
    merged: dict[str, Any] = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {name: parse_quantity(quantity) for name, quantity in merged.items()}


def gpus_per_node(resources: PlainData) -> int:
    """Whole GPUs that plain `{requests, limits}` data asks for."""
    return int(effective_requests(resources).get(GPU_RESOURCE, Decimal(0)))
