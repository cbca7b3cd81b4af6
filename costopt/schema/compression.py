"""Variants: each a list of compression steps applied, in order, to the trained model."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import Name, Rule, Strict
from costopt.schema.resources import NodeResources
from costopt.schema.unions import tagged_union


class Quantize(Strict):
    """Store weights, and for one scheme also compute, in fewer bits (torchao)."""

    scheme: Literal["Int8WeightOnly", "Int8DynamicActivation"]
    """Int8WeightOnly: 8-bit weights, computed in the model's precision; smaller, not faster on a CPU.
    Int8DynamicActivation: 8-bit weights and activations quantized as they come; smaller and, with an
    engine for it, faster."""


class Prune(Strict):
    """Remove weights."""

    structure: Literal["Unstructured", "Structured"]
    """Unstructured: single weights become zero, shapes stay. Structured: whole channels go, matrices get smaller."""
    criterion: Literal["L1", "Random"] = "L1"
    """Which go first: those of the smallest magnitude, or random ones (a baseline to compare with)."""
    percent: Annotated[int, Field(ge=1, le=95)]
    """Percent of the weights (Unstructured) or of the channels (Structured) to remove, in each layer."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of the Random criterion."""


@tagged_union
class Step(Strict):
    """One compression step."""

    type: Literal["Quantize", "Prune"]
    """Which of the settings below is used."""
    quantize: Quantize | None = None
    """Settings of a Quantize step."""
    prune: Prune | None = None
    """Settings of a Prune step."""


class Variant(Strict):
    """One compressed form of the trained model. Each variant is made and measured in a pod of its own."""

    name: Annotated[Name, Field(max_length=30)]
    """Name of the variant, used in child names and in the status; not "train", "model" or "adapter"."""
    steps: Annotated[list[Step], Field(min_length=1, max_length=8)]
    """Steps in order."""
    resources: NodeResources | None = None
    """What the variant's pod is asked for. None means train.resourcesPerNode."""

    rules = (
        Rule(
            cel="self.name != 'train'",
            message="name must not be 'train', which is the training stage's own name",
            holds=lambda data: data["name"] != "train",
        ),
        Rule(
            cel="!(self.name in ['model', 'adapter'])",
            message="name must not be 'model' or 'adapter', which are what training leaves",
            holds=lambda data: data["name"] not in ("model", "adapter"),
        ),
        Rule(
            cel="self.steps.filter(s, s.type == 'Quantize').size() == 0 || "
            "(self.steps.filter(s, s.type == 'Quantize').size() == 1 && "
            "self.steps[self.steps.size() - 1].type == 'Quantize')",
            message="a Quantize step must be the last of a variant's steps: quantized weights cannot change further",
            holds=lambda data: all(step["type"] != "Quantize" for step in data["steps"][:-1]),
        ),
    )
