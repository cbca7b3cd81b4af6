"""The families of models of the built-in trainer: one class of settings each, and which of them a recipe names."""

from collections.abc import Iterator
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
    heads_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that a split of its matrices must divide, such as the number of heads; none: they cannot be split."""
    tokens_field: ClassVar[str | None] = None
    """The field with the tokens of a sample; None if samples are no tokens."""


class DecoderLM(FamilySettings):
    """A decoder-only transformer language model (pre-norm, learned positions, untied embeddings)."""

    reads = TEXT
    layers_field = "num_layers"
    heads_fields = ("num_heads",)
    tokens_field = "context_length"

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
    return _value(model, _FAMILIES[model["type"]].layers_field)


def split_fault(model: PlainData, tensor: int, *, sequence: bool) -> str | None:
    """The field of plain `recipe.model` data that `tensor` ranks cannot share out; None if they can."""
    family = _FAMILIES[model["type"]]
    if tensor == 1:
        return None
    if not family.heads_fields:
        return "type"
    fields = (*family.heads_fields, *((family.tokens_field,) if sequence and family.tokens_field else ()))
    return next((to_camel(field) for field in fields if _value(model, field) % tensor != 0), None)


def cel_num_layers(model: str) -> str:
    """`num_layers` in CEL; `model` is the path of the settings."""
    cases = [
        f"{model}.type == '{word}' ? {_cel_value(model, word, family.layers_field)}" for word, family in _families()
    ]
    return f"({' : '.join(cases)} : 0)"


def cel_can_be_split(model: str, tensor: str, sequence: str) -> str:
    """Whether `split_fault` finds none, in CEL; `tensor` and `sequence` are expressions."""
    cases = []
    for word, family in _families():
        demands = [f"{_cel_value(model, word, field)} % {tensor} == 0" for field in family.heads_fields] or ["false"]
        if family.tokens_field:
            demands.append(f"(!{sequence} || {_cel_value(model, word, family.tokens_field)} % {tensor} == 0)")
        cases.append(f"{model}.type == '{word}' ? {' && '.join(demands)}")
    return f"({tensor} == 1 || ({' : '.join(cases)} : false))"


_MEMBERS = {member.word: member for member in UNIONS[ModelSettings]}
_FAMILIES: dict[str, type[FamilySettings]] = {
    word: member.settings
    for word, member in _MEMBERS.items()
    if member.settings is not None and issubclass(member.settings, FamilySettings)
}
"""The word of a model's type -> the class of its settings."""


def _families() -> Iterator[tuple[str, type[FamilySettings]]]:
    yield from _FAMILIES.items()


def _value(model: PlainData, field: str) -> int:
    """A whole number of the settings that plain `recipe.model` data names, with their defaults."""
    word = model["type"]
    return int(with_defaults(_FAMILIES[word], model.get(_MEMBERS[word].key, {}))[to_camel(field)])


def _cel_value(model: str, word: str, field: str) -> str:
    """The same in CEL."""
    key, name = _MEMBERS[word].key, to_camel(field)
    given = f"has({model}.{key}) && has({model}.{key}.{name})"
    return f"({given} ? {model}.{key}.{name} : {_value({'type': word}, field)})"


def _told(fields: Iterator[tuple[str, str]]) -> str:
    return ", ".join(f"{_MEMBERS[word].key}.{to_camel(field)}" for word, field in fields)


LAYERS_FIELDS = _told((word, family.layers_field) for word, family in _families())
"""Where numbers of layers are written, for sentences."""
HEADS_FIELDS = _told((word, field) for word, family in _families() for field in family.heads_fields)
"""Where what a split of matrices must divide is written, for sentences."""
