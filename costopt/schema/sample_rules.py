"""What the samples of a recipe must be, as far as its settings tell it: so a mistake is found before there are pods.

SAMPLE_RULES    the rules of `recipe` about its tokens, texts and images, in Python and CEL
"""

from collections.abc import Mapping
from typing import Any

from costopt.schema.base import PlainData, Rule, cel_list
from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import DOCUMENTS, TEXT, cel_reads, reads, words_giving
from costopt.schema.models import ModelSettings, cel_family_value, family_value

_WITHOUT_TEXT = ("TokenShards", *words_giving(DataSettings, but=DOCUMENTS))
_BLOCKS = ("tokenDropout", "spanCorruption")
"""Of the augmentations that put other tokens in the place of tokens."""

_MIXTURE, _SOURCES = "self.data.mixture", "self.data.mixture.sources"
_OF_TOKENS = "has(one.tokenShards)"
_IS_ALL_TOKENS = f"(self.data.type == 'TokenShards' || has({_MIXTURE}) && {_SOURCES}.all(one, {_OF_TOKENS}))"
_IS_OF_BYTES = (
    "(has(self.data.tokenizer) ? self.data.tokenizer.type == 'Byte' : self.model.type != 'HuggingFace') && "
    f"{_SOURCES}.exists(one, !{_OF_TOKENS})"
)
_ATTENDS = "self.data.?packing.?boundaries.orValue('') == 'Attention'"


def _is_all_tokens(data: PlainData) -> bool:
    """Whether its samples are tokens of a tokenizer of which no more is known than its size."""
    if data["type"] == "TokenShards":
        return True
    return data["type"] == "Mixture" and all("tokenShards" in source for source in data["mixture"]["sources"])


def _tokenizer(recipe: PlainData) -> str:
    """The type of tokenizer that reads its text; HuggingFace for any that a model may bring."""
    given = recipe["data"].get("tokenizer")
    if given is not None:
        return str(given["type"])
    return "HuggingFace" if recipe["model"]["type"] == "HuggingFace" else "Byte"


def _replaces_tokens(recipe: PlainData) -> list[Mapping[str, Any]]:
    """The augmentations that do."""
    given = recipe["data"].get("augmentations", ())
    return [one for one in given if one["type"] in ("TokenDropout", "SpanCorruption")]


def _masks_have_a_token(recipe: PlainData) -> bool:
    masks = any(one.get(key, {}).get("replacement") == "Mask" for one in _replaces_tokens(recipe) for key in _BLOCKS)
    if not masks or not reads(ModelSettings, TEXT, recipe["model"]):
        return True
    return not _is_all_tokens(recipe["data"]) and _tokenizer(recipe) == "HuggingFace"


def _has_text_to_encode(recipe: PlainData) -> bool:
    data = recipe["data"]
    asked = "encoder" in data.get("selection", {}).get("representative", {})
    return not asked or not (data["type"] in _WITHOUT_TEXT or _is_all_tokens(data))


def _vocabularies_agree(recipe: PlainData) -> bool:
    sources = recipe["data"].get("mixture", {}).get("sources", ())
    sizes = {source["tokenShards"]["vocabularySize"] for source in sources if "tokenShards" in source}
    of_bytes = _tokenizer(recipe) == "Byte" and any("tokenShards" not in source for source in sources)
    return len(sizes | ({256} if sizes and of_bytes else set())) <= 1


def _ends_agree(recipe: PlainData) -> bool:
    data = recipe["data"]
    if data.get("packing", {}).get("boundaries") != "Attention":
        return True
    sources = data.get("mixture", {}).get("sources", ())
    ends = {source["tokenShards"].get("endOfTextToken") for source in sources if "tokenShards" in source}
    of_bytes = _tokenizer(recipe) == "Byte" and any("tokenShards" not in source for source in sources)
    return len(ends | ({0} if ends and of_bytes else set())) <= 1


_STAGES_HALVE = "self.model.type == 'ConvNet' ? {} : self.model.type == 'ResNet' ? {} - 1 + ({} ? 2 : 0) : 0".format(
    cel_family_value("self.model", "ConvNet", "num_stages"),
    cel_family_value("self.model", "ResNet", "num_stages"),
    cel_family_value("self.model", "ResNet", "large_images"),
)
"""How often a model halves height and width, in CEL."""


def _halvings(model: PlainData) -> int:
    if model["type"] == "ConvNet":
        return int(family_value(model, "num_stages"))
    if model["type"] == "ResNet":
        return int(family_value(model, "num_stages")) - 1 + (2 if family_value(model, "large_images") else 0)
    return 0


def _pixels_suffice(recipe: PlainData) -> bool:
    given = recipe["data"].get("imageFolder", {})
    if "height" not in given:
        return True
    return bool(min(given["height"], given["width"]) >= 2 ** _halvings(recipe["model"]))


SAMPLE_RULES = (
    Rule(
        cel="!has(self.data.tokenizer) || self.data.tokenizer.type != 'HuggingFace' || has(self.data.tokenizer.path) "
        "|| self.model.type == 'HuggingFace'",
        message="data.tokenizer.path must be set for type HuggingFace unless model.type is HuggingFace, for no other "
        "model brings a tokenizer",
        holds=lambda data: (
            data["data"].get("tokenizer", {}).get("type") != "HuggingFace"
            or "path" in data["data"]["tokenizer"]
            or data["model"]["type"] == "HuggingFace"
        ),
    ),
    Rule(
        cel="!has(self.data.augmentations) || !self.data.augmentations.exists(one, "
        + " || ".join(f"has(one.{key}) && one.{key}.replacement == 'Mask'" for key in _BLOCKS)
        + f") || !({cel_reads(ModelSettings, TEXT)}) || !{_IS_ALL_TOKENS} && "
        "(has(self.data.tokenizer) ? self.data.tokenizer.type : self.model.type) == 'HuggingFace'",
        message="replacement of TokenDropout and SpanCorruption must be Random or Previous, not Mask, for a model that "
        "learns the next token: only a tokenizer of type HuggingFace may have a mask token then",
        holds=_masks_have_a_token,
    ),
    Rule(
        cel="!has(self.data.augmentations) || !self.data.augmentations.exists(one, one.type in "
        f"{cel_list(('TokenDropout', 'SpanCorruption'))}) || !({_ATTENDS})",
        message="data.packing.boundaries must not be Attention with TokenDropout or SpanCorruption, which may put an "
        "end of a document in the place of a token: use Loss",
        holds=lambda data: (
            not _replaces_tokens(data) or data["data"].get("packing", {}).get("boundaries") != "Attention"
        ),
    ),
    Rule(
        cel="!self.data.?selection.?representative.?encoder.hasValue() || "
        f"!(self.data.type in {cel_list(_WITHOUT_TEXT)}) && !{_IS_ALL_TOKENS}",
        message="data.selection.representative.encoder reads text, and must be left out where samples have none: "
        f"{', '.join(_WITHOUT_TEXT)}",
        holds=_has_text_to_encode,
    ),
    Rule(
        cel=f"!has({_MIXTURE}) || [{_IS_OF_BYTES}].all(bytes, {_SOURCES}.all(one, !{_OF_TOKENS} || "
        f"(!bytes || one.tokenShards.vocabularySize == 256) && {_SOURCES}.all(other, !has(other.tokenShards) || "
        "one.tokenShards.vocabularySize == other.tokenShards.vocabularySize)))",
        message="all sources of data.mixture must have one tokenizer: the vocabularySize of each tokenShards must be "
        "the same, and 256 where other sources are read as bytes (see data.tokenizer)",
        holds=_vocabularies_agree,
    ),
    Rule(
        cel=f"!has({_MIXTURE}) || !({_ATTENDS}) || [{_IS_OF_BYTES}].all(bytes, {_SOURCES}.all(one, "
        "!has(one.tokenShards) || !has(one.tokenShards.endOfTextToken) || "
        f"(!bytes || one.tokenShards.endOfTextToken == 0) && {_SOURCES}.all(other, !has(other.tokenShards) || "
        "!has(other.tokenShards.endOfTextToken) || "
        "one.tokenShards.endOfTextToken == other.tokenShards.endOfTextToken)))",
        message="the endOfTextToken of each source of data.mixture must be the same if data.packing.boundaries is "
        "Attention, and 0 where other sources are read as bytes",
        holds=_ends_agree,
    ),
    Rule(
        cel="!has(self.data.imageFolder) || !has(self.data.imageFolder.height) || !has(self.data.imageFolder.width) || "
        "[2,4,8,16,32,64,128].filter(n, n <= self.data.imageFolder.height && n <= self.data.imageFolder.width).size() "
        f">= ({_STAGES_HALVE})",
        message="height and width of data.imageFolder must be at least 2 to the power of model.convNet.numStages, "
        "each of which halves them, or of model.resNet.numStages less 1, and 2 more with largeImages",
        holds=_pixels_suffice,
    ),
)
"""The rules of `recipe` about its samples."""
