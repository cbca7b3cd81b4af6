"""Settings of the families of models beside the decoder."""

from typing import Annotated

from pydantic import Field

from costopt.schema.data_kinds import IMAGES
from costopt.schema.model_family import FamilySettings


class ConvNet(FamilySettings):
    """A small convolutional image classifier: stages of convolution, batch norm, ReLU and pooling, then one linear."""

    reads = IMAGES
    layers_field = "num_stages"

    num_stages: Annotated[int, Field(ge=1, le=6)] = 2
    """Convolution stages; each halves height and width."""
    base_channels: Annotated[int, Field(ge=4, le=4096)] = 32
    """Channels of the first stage; each further stage doubles them."""
