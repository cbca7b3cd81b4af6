"""The families of models of the built-in trainer: one class of settings each, and which of them a recipe names."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from costopt.schema.base import PlainData, Rule, Strict
from costopt.schema.data_kinds import IMAGES, TEXT, ReadsSamples
from costopt.schema.defaults import with_defaults
from costopt.schema.unions import UNIONS, tagged_union


class FamilySettings(ReadsSamples):
    """Settings of a family of models, all of which a pipeline can cut between their layers."""

    layers_field: ClassVar[str]
    """The field with the number of layers."""


class DecoderLM(FamilySettings):
    """A decoder-only transformer language model (pre-norm, learned positions, untied embeddings)."""

    reads = TEXT
    layers_field = "num_layers"

    num_layers: Annotated[int, Field(ge=1, le=256)] = 4
    """Transformer blocks."""
    num_heads: Annotated[int, Field(ge=1, le=256)] = 4
    """Attention heads per block; embeddingDim must be a multiple of it."""
    embedding_dim: Annotated[int, Field(ge=8, le=65536)] = 128
    """Width of the residual stream."""
    context_length: Annotated[int, Field(ge=8, le=1048576)] = 128
    """Tokens per sample."""
    dropout_percent: Annotated[int, Field(ge=0, le=90)] = 0
    """Percent of activations dropped while training. 0, because one pass over much text does not overfit."""

    rules = (
        Rule(
            cel="self.embeddingDim % self.numHeads == 0",
            message="embeddingDim must be a multiple of numHeads",
            holds=lambda data: data["embeddingDim"] % data["numHeads"] == 0,
        ),
    )


class ConvNet(FamilySettings):
    """A small convolutional image classifier: stages of convolution, batch norm, ReLU and pooling, then one linear."""

    reads = IMAGES
    layers_field = "num_stages"

    num_stages: Annotated[int, Field(ge=1, le=6)] = 2
    """Convolution stages; each halves height and width."""
    base_channels: Annotated[int, Field(ge=4, le=4096)] = 32
    """Channels of the first stage; each further stage doubles them."""


@tagged_union
class ModelSettings(Strict):
    """Which model to train."""

    type: Literal["DecoderLM", "ConvNet"]
    """DecoderLM reads `data.text` or `data.pythonStandardLibrary`; ConvNet reads `data.images`."""
    decoder_lm: DecoderLM | None = Field(default=None, alias="decoderLM")
    """Settings of a DecoderLM. None means its defaults."""
    conv_net: ConvNet | None = None
    """Settings of a ConvNet. None means its defaults."""


def num_layers(model: PlainData) -> int:
    """Layers of plain `recipe.model` data. Raises KeyError for a type that is none."""
    key, settings, field = _LAYERS[model["type"]]
    return int(with_defaults(settings, model.get(key, {}))[field])


def cel_num_layers(model: str) -> str:
    """The same in CEL; `model` is the path of the settings."""
    cases = [
        f"{model}.type == '{word}' ? (has({model}.{key}) ? {model}.{key}.{field} : {num_layers({'type': word})})"
        for word, (key, _, field) in _LAYERS.items()
    ]
    return f"({' : '.join(cases)} : 0)"


_LAYERS = {
    member.word: (member.key, member.settings, to_camel(member.settings.layers_field))
    for member in UNIONS[ModelSettings]
    if member.settings is not None and issubclass(member.settings, FamilySettings)
}
"""The word of a model's type -> the field with its settings, their class, and the field with the number of layers."""

LAYERS_FIELDS = ", ".join(f"{key}.{field}" for key, _, field in _LAYERS.values())
"""Where numbers of layers are written, for sentences."""
