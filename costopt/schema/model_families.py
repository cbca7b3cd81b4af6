"""Settings of the families of models beside the decoder."""

from typing import Annotated, Any

from pydantic import Field

from costopt.schema.base import Rule
from costopt.schema.data_kinds import IMAGES, TABLES, TEXT
from costopt.schema.model_family import FamilySettings, LowRank, SharedLayers, SparseLayers


class LSTM(SharedLayers, SparseLayers):
    """A recurrent language model: residual layers of layer norm and LSTM (Hochreiter and Schmidhuber 1997)."""

    reads = TEXT
    layers_field = "num_layers"

    num_layers: Annotated[int, Field(ge=1, le=64)] = 2
    """LSTM layers."""
    embedding_dim: Annotated[int, Field(ge=8, le=65536)] = 256
    """Width of the residual stream, and of each layer's state."""
    context_length: Annotated[int, Field(ge=8, le=1048576)] = 128
    """Tokens per sample."""
    dropout_percent: Annotated[int, Field(ge=0, le=90)] = 0
    """Percent of activations dropped while training."""
    tied_embeddings: bool = False
    """Whether the matrix that gives the logits is that of the token embeddings."""
    carry_state: bool | None = None
    """Whether a sample begins with the state that the one before it in the text has left, in training as in its
    evaluations (truncated back-propagation through time): gradients stay within contextLength tokens, what is
    remembered does not. As many sequences are read side by side as batch.globalBatchSize says, in the order of the text
    and not shuffled. None means false: each sample begins with an empty state."""

    def shaping(self) -> dict[str, Any]:
        """Once, and no, is what is meant where nothing is written."""
        meant = (("layerRepeats", 1), ("carryState", False))
        return {key: value for key, value in super().shaping().items() if (key, value) not in meant}


class ConvNet(FamilySettings):
    """A small convolutional image classifier: stages of convolution, batch norm, ReLU and pooling, then one linear."""

    reads = IMAGES
    layers_field = "num_stages"

    num_stages: Annotated[int, Field(ge=1, le=6)] = 2
    """Convolution stages; each halves height and width."""
    base_channels: Annotated[int, Field(ge=4, le=4096)] = 32
    """Channels of the first stage; each further stage doubles them."""


class ResNet(SparseLayers):
    """A residual network of basic blocks (He et al., arXiv 1512.03385): two 3x3 convolutions with batch norm each,
    added to what came in. Each stage but the first begins by halving height and width and doubling the channels."""

    reads = IMAGES
    layers_field = "num_blocks"

    num_blocks: Annotated[int, Field(ge=1, le=256)] = 3
    """Basic blocks in all; a multiple of numStages. 9 in 3 stages is ResNet-20, 8 in 4 is ResNet-18."""
    num_stages: Annotated[int, Field(ge=1, le=6)] = 3
    """Stages of equally many blocks."""
    base_channels: Annotated[int, Field(ge=4, le=4096)] = 16
    """Channels of the first stage; each further stage doubles them."""
    large_images: bool = False
    """Whether a 7x7 convolution and a pooling, which both halve height and width, come first, as for photographs of 224
    pixels. Else a 3x3 convolution does, as for those of 32."""

    rules = (
        Rule(
            cel="self.numBlocks % self.numStages == 0",
            message="numBlocks must be a multiple of numStages",
            holds=lambda data: data["numBlocks"] % data["numStages"] == 0,
        ),
    )


class MLP(LowRank, SparseLayers):
    """A classifier of the rows of a table: linear layers with ReLU. It takes raw features, and scales them itself."""

    reads = TABLES
    layers_field = "num_layers"

    num_layers: Annotated[int, Field(ge=1, le=256)] = 3
    """Hidden layers."""
    width: Annotated[int, Field(ge=1, le=65536)] = 128
    """Channels of each hidden layer."""
    dropout_percent: Annotated[int, Field(ge=0, le=90)] = 0
    """Percent of each hidden layer's activations dropped while training."""

    rules = (
        Rule(
            cel="!has(self.rank) || self.rank * 2 < self.width",
            message="rank must be less than half of width, or two factors have no fewer weights than the matrix",
            holds=lambda data: data.get("rank", 0) * 2 < data["width"],
        ),
    )
