"""Which family of models a recipe names. The settings of each have files of their own:

decoder_lm, model_families    a class each
model_family                  what all of them declare
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from costopt.schema.base import PlainData, Strict
from costopt.schema.decoder_lm import DecoderLM
from costopt.schema.defaults import with_defaults
from costopt.schema.encoder import Encoder
from costopt.schema.foreign_models import HuggingFace, Import
from costopt.schema.model_families import LSTM, MLP, ConvNet, ResNet
from costopt.schema.model_family import FamilySettings, SparseLayers
from costopt.schema.unions import UNIONS, tagged_union

__all__ = ["LSTM", "MLP", "ConvNet", "DecoderLM", "Encoder", "FamilySettings", "ModelSettings", "ResNet"]


@tagged_union
class ModelSettings(Strict):
    """Which model to train."""

    type: Literal["DecoderLM", "LSTM", "Encoder", "ConvNet", "ResNet", "MLP", "HuggingFace", "Import"]
    """DecoderLM, LSTM, and Encoder with `task` MaskedLM read text (`data.text`, `records`, `tokenShards` or
    `pythonStandardLibrary`); Encoder with `task` Classification reads `data.labelledText`; ConvNet and ResNet read
    images (`data.images` or `imageFolder`); MLP reads `data.table`.
    HuggingFace reads labelled text with `task` SequenceClassification, else text; Import reads what its `data` says."""
    decoder_lm: DecoderLM | None = Field(default=None, alias="decoderLM")
    """Settings of a DecoderLM. None means its defaults."""
    lstm: LSTM | None = None
    """Settings of an LSTM. None means its defaults."""
    encoder: Encoder | None = None
    """Settings of an Encoder. None means its defaults."""
    conv_net: ConvNet | None = None
    """Settings of a ConvNet. None means its defaults."""
    res_net: ResNet | None = None
    """Settings of a ResNet. None means its defaults."""
    mlp: MLP | None = None
    """Settings of an MLP. None means its defaults."""
    hugging_face: HuggingFace | None = None
    """Which model of the Hugging Face library, for HuggingFace."""
    import_: Import | None = Field(default=None, alias="import")
    """Which function of your own package makes the model, for Import."""


def num_layers(model: PlainData) -> int:
    """Layers of plain `recipe.model` data that a pipeline can part. Raises KeyError for a type that is none."""
    if model["type"] in _WHOLE:
        return 1
    return int(family_value(model, _FAMILIES[model["type"]].layers_field))


def split_fault(model: PlainData, tensor: int, *, sequence: bool) -> str | None:
    """The field of plain `recipe.model` data that `tensor` ranks cannot share out, "sequence" where there are no
    positions to share out among them; None if they can."""
    if tensor == 1:
        return "sequence" if sequence else None
    if model["type"] in _BY_OWN_PLAN:
        return "type" if sequence else None
    family = _FAMILIES[model["type"]] if model["type"] not in _WHOLE else None
    if family is None or not family.heads_fields:
        return "type"
    divided = (*family.heads_fields, *((family.tokens_field,) if sequence and family.tokens_field else ()))
    refused = [field for field in divided if (family_value(model, field) or 0) % tensor != 0]
    refused += [field for field in family.whole_fields if family_value(model, field) is not None]
    return to_camel(refused[0]) if refused else None


def cel_num_layers(model: str) -> str:
    """`num_layers` in CEL; `model` is the path of the settings."""
    cases = [
        f"{model}.type == '{word}' ? {cel_family_value(model, word, family.layers_field)}"
        for word, family in _families()
    ]
    whole = [f"{model}.type == '{word}' ? 1" for word in _WHOLE]
    return f"({' : '.join([*cases, *whole])} : 0)"


def cel_split_numbers(model: str, sequence: str) -> list[str]:
    """What more than one rank must divide to split matrices, in CEL: 0 is no demand, and 1 that there is one rank.
    `sequence` is an expression."""
    families = [(word, family) for word, family in _families() if family.heads_fields]
    numbers = {
        word: [cel_family_value(model, word, field) for field in family.heads_fields] for word, family in families
    }
    for word, family in families:
        if family.tokens_field:
            numbers[word].append(f"({sequence} ? {cel_family_value(model, word, family.tokens_field)} : 0)")
        for field in family.whole_fields:
            numbers[word][0] = f"({_cel_has(model, word, field)} ? 1 : {numbers[word][0]})"
    numbers |= {word: [f"({sequence} ? 1 : 0)"] for word in _BY_OWN_PLAN}
    most = max(map(len, numbers.values()))
    rows = {word: [*row, *["0"] * (most - len(row))] for word, row in numbers.items()}
    named = [[f"{model}.type == '{word}' ? {row[place]}" for word, row in rows.items()] for place in range(most)]
    return [f"({' : '.join(cases)} : 1)" for cases in named]


CEL_CARRIES_STATE = "self.model.?lstm.?carryState.orValue(false)"
"""`carries_state` of a recipe's model, in CEL over the recipe."""


def carries_state(model: PlainData) -> bool:
    """Whether plain `recipe.model` data goes on from sample to sample."""
    return bool(model.get("lstm", {}).get("carryState"))


def is_sparse(model: PlainData) -> bool:
    """Whether plain `recipe.model` data has weights that stay zero."""
    return any("sparsity" in model.get(_MEMBERS[word].key, {}) for word in _SPARSE)


def cel_is_sparse(model: str) -> str:
    """`is_sparse` in CEL; `model` is the path of the settings."""
    return " || ".join(_cel_has(model, word, "sparsity") for word in _SPARSE)


_MEMBERS = {member.word: member for member in UNIONS[ModelSettings]}
_FAMILIES: dict[str, type[FamilySettings]] = {
    word: member.settings
    for word, member in _MEMBERS.items()
    if member.settings is not None and issubclass(member.settings, FamilySettings)
}
"""The word of a model's type -> the class of its settings."""
_WHOLE = [word for word in _MEMBERS if word not in _FAMILIES]
"""Models that are not ours: a pipeline cannot cut them."""
_SPARSE = [word for word, family in _FAMILIES.items() if issubclass(family, SparseLayers)]
_BY_OWN_PLAN = ["HuggingFace"]
"""Those of them whose matrices may be split: only where they train can their own plan be read."""


def _families() -> Iterator[tuple[str, type[FamilySettings]]]:
    yield from _FAMILIES.items()


def family_value(model: PlainData, field: str) -> Any:
    """A field of the settings that plain `recipe.model` data names, with their defaults; None if it is not set."""
    word = model["type"]
    return with_defaults(_FAMILIES[word], model.get(_MEMBERS[word].key, {})).get(to_camel(field))


def _cel_has(model: str, word: str, field: str) -> str:
    key = _MEMBERS[word].key
    return f"has({model}.{key}) && has({model}.{key}.{to_camel(field)})"


def cel_family_value(model: str, word: str, field: str) -> str:
    """The same in CEL, of a whole number (0, which everything divides, if it is not set) or of true and false."""
    default = family_value({"type": word}, field)
    default = str(default).lower() if isinstance(default, bool) else default or 0
    return f"{model}.?{_MEMBERS[word].key}.?{to_camel(field)}.orValue({default})"


def _told(fields: Iterator[tuple[str, str]]) -> str:
    return ", ".join(f"{_MEMBERS[word].key}.{to_camel(field)}" for word, field in fields)


LAYERS_FIELDS = (
    f"{_told((word, family.layers_field) for word, family in _families())}, and 1 for {' and '.join(_WHOLE)}"
)
"""Where numbers of layers are written, for sentences."""
HEADS_FIELDS = _told((word, field) for word, family in _families() for field in family.heads_fields)
"""Where what a split of matrices must divide is written, for sentences."""
