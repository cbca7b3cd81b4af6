"""Settings of the family Encoder."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import Rule
from costopt.schema.data_kinds import LABELLED_TEXT, MASKED_TEXT, BySetting
from costopt.schema.model_family import LowRank, SharedLayers, SparseLayers


class Encoder(LowRank, SharedLayers, SparseLayers):
    """A transformer encoder, in which each token sees all others (learned positions, untied embeddings): it fills in
    hidden tokens, as BERT does, or tells the class of a document. With bottleneckDim it is built as MobileBERT is (rank
    leaves the two linear layers whole that fit its widths)."""

    reads = BySetting("task", {"MaskedLM": MASKED_TEXT, "Classification": LABELLED_TEXT})
    layers_field = "num_layers"

    task: Literal["MaskedLM", "Classification"] = "MaskedLM"
    """MaskedLM hides 15 percent of the tokens of a text and learns to tell them, from others at each epoch (of those
    chosen, 80 percent are hidden, 10 percent are another token and 10 percent stay). Classification learns to tell the
    label of a document."""
    num_layers: Annotated[int, Field(ge=1, le=256)] = 4
    """Transformer blocks."""
    num_heads: Annotated[int, Field(ge=1, le=256)] = 4
    """Attention heads per block; embeddingDim (or bottleneckDim, if set) must be a multiple of it."""
    embedding_dim: Annotated[int, Field(ge=8, le=65536)] = 128
    """Width of what passes from layer to layer."""
    context_length: Annotated[int, Field(ge=8, le=1048576)] = 128
    """Tokens per sample. Shorter documents are padded, longer ones cut."""
    norm: Literal["Pre", "Post"] = "Pre"
    """Where layer norms are. Pre: before attention and MLP, which trains deep models without care. Post: after what
    each adds, as in BERT."""
    pooling: Literal["Mean", "FirstToken"] = "Mean"
    """What the class is told from: the mean over the document's tokens, or its first token, which marks its beginning.
    Not used by MaskedLM."""
    bottleneck_dim: Annotated[int, Field(ge=8, le=65536)] | None = None
    """Width within each layer: its attention and MLPs work on that many channels, and one linear layer before and one
    after them fit them to embeddingDim. None means embeddingDim, without these two."""
    mlps_per_layer: Annotated[int, Field(ge=1, le=16)] = 1
    """MLPs one after the other in each layer. MobileBERT has 4, since its are narrow."""
    dropout_percent: Annotated[int, Field(ge=0, le=90)] = 0
    """Percent of activations dropped while training. BERT has 10."""

    rules = (
        Rule(
            cel="(has(self.bottleneckDim) ? self.bottleneckDim : self.embeddingDim) % self.numHeads == 0",
            message="embeddingDim (or bottleneckDim, if set) must be a multiple of numHeads",
            holds=lambda data: data.get("bottleneckDim", data["embeddingDim"]) % data["numHeads"] == 0,
        ),
        Rule(
            cel="!has(self.rank) || 2 * self.rank < (has(self.bottleneckDim) ? self.bottleneckDim : self.embeddingDim)",
            message="rank must be so small that two factors have fewer weights than the matrix: less than half of "
            "embeddingDim (or bottleneckDim, if set)",
            holds=lambda data: "rank" not in data or 2 * data["rank"] < data.get("bottleneckDim", data["embeddingDim"]),
        ),
    )
