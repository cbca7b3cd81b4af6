"""What every family of models declares, and the settings that make one of them lighter.

FamilySettings                           what rules and the trainer ask of any family
LowRank, SharedLayers, SparseLayers      fewer weights; a family has those that suit its layers
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from costopt.schema.base import Strict
from costopt.schema.data_kinds import ReadsSamples


class FamilySettings(ReadsSamples):
    """Settings of a family of models, all of which a pipeline can cut between their layers."""

    layers_field: ClassVar[str]
    """The field with the number of layers."""
    heads_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that a split of its matrices must divide, such as the number of heads; none: they cannot be split."""
    tokens_field: ClassVar[str | None] = None
    """The field with the tokens of a sample; None if samples are no tokens."""
    whole_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that must not be set where matrices are split."""

    def shaping(self) -> dict[str, Any]:
        """The settings as plain data, as they take effect: what a checkpoint must agree with."""
        return self.to_plain()


class Sparsity(Strict):
    """Weights that are zero from the first step to the last."""

    percent: Annotated[int, Field(ge=1, le=99)]
    """Percent of the weights of each matrix that are zero."""
    mask: Literal["Random", "Magnitude"] = "Random"
    """Which ones: random ones, or those whose initial values are the smallest."""


class LowRank(FamilySettings):
    """A family whose layers have linear layers."""

    rank: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Each matrix of the layers is a product of two, with this many channels between them: fewer weights and fewer
    operations. None means whole matrices."""


class SharedLayers(FamilySettings):
    """A family whose layers keep the shape of what passes through them."""

    layer_repeats: Annotated[int, Field(ge=1, le=64)] | None = None
    """How often each layer is applied, one time right after the other, with the same weights (immediate block-wise
    sharing, arXiv 2402.14905): the operations of a deeper model with the weights of a shallow one. None means once."""


class SparseLayers(FamilySettings):
    """A family whose layers have matrices."""

    sparsity: Sparsity | None = None
    """Weights of the layers that stay zero. Smaller once compressed, not faster: kernels multiply the zeros, too. None
    means none."""
