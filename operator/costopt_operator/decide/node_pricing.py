"""What a node's labels say about its price: device model, capacity type, instance type, zone. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from costopt.schema.usage import CapacityType

PRODUCT_LABEL = "nvidia.com/gpu.product"

KEPT_LABELS = (
    PRODUCT_LABEL,
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "kubernetes.io/arch",
    "karpenter.sh/capacity-type",
    "eks.amazonaws.com/capacityType",
    "cloud.google.com/gke-spot",
    "cloud.google.com/gke-preemptible",
    "kubernetes.azure.com/scalesetpriority",
)
"""Labels that go into a usage record."""

_CAPACITY: Mapping[tuple[str, str], CapacityType] = {
    ("karpenter.sh/capacity-type", "spot"): "Spot",
    ("karpenter.sh/capacity-type", "reserved"): "Reserved",
    ("eks.amazonaws.com/capacityType", "SPOT"): "Spot",
    ("eks.amazonaws.com/capacityType", "CAPACITY_BLOCK"): "Reserved",
    ("cloud.google.com/gke-spot", "true"): "Spot",
    ("cloud.google.com/gke-preemptible", "true"): "Spot",
    ("kubernetes.azure.com/scalesetpriority", "spot"): "Spot",
}
"""Labels by which the large clouds and Karpenter mark capacity that is not on demand."""


@dataclass(frozen=True)
class NodeClass:
    """Class of a node."""

    product: str | None = None
    capacity_type: CapacityType = "OnDemand"
    labels: Mapping[str, str] = field(default_factory=dict)


UNKNOWN_NODE = NodeClass()
"""A node that may not be read, or was gone before that."""


def classify(labels: Mapping[str, str]) -> NodeClass:
    """The class of a node with these labels."""
    kinds = [kind for (label, value), kind in _CAPACITY.items() if labels.get(label) == value]
    return NodeClass(
        product=labels.get(PRODUCT_LABEL, "")[:256] or None,
        capacity_type=kinds[0] if kinds else "OnDemand",
        labels={label: labels[label][:256] for label in KEPT_LABELS if label in labels},
    )
