"""How a text is cut into samples.

Packing                         whether samples see where a document ends
boundaries_are_known            a rule of the data: there must be documents
boundaries_suit_model           rules of a recipe: not every model can keep to its document
boundaries_suit_task            rules of the measuring of a command's model, which cannot
"""

from typing import Literal

from costopt.schema.base import PlainData, Rule, Strict, cel_field, cel_list
from costopt.schema.degrees import cel_degree

_WITH_DOCUMENTS = ("Text", "PythonStandardLibrary", "Records", "TokenShards", "Mixture")


class Packing(Strict):
    """Samples of a text are cut from one long row of tokens, documents one behind the other with a token between them,
    so that nothing is padded. A sample may hold several documents, and begin or end within one."""

    boundaries: Literal["Ignore", "Loss", "Attention"] = "Ignore"
    """What happens where a document ends within a sample. Ignore: nothing; the next one is text as any other. Loss: the
    first token of a document counts for nothing, for nothing before it could tell it. Attention: that, and each token
    sees those of its own document only (intra-document masking), with Learned positions counted from its document's
    beginning in the sample; for DecoderLM, and slower. It changes what is learned, so a checkpoint keeps to it."""


def _boundaries(data: PlainData) -> str:
    return str(data.get("packing", {}).get("boundaries", "Ignore"))


boundaries_are_known = (
    Rule(
        cel=f"!has(self.packing) || self.type in {cel_list(_WITH_DOCUMENTS)}",
        message=f"packing must not be set unless type is {' or '.join(_WITH_DOCUMENTS)}",
        holds=lambda data: "packing" not in data or data["type"] in _WITH_DOCUMENTS,
    ),
    Rule(
        cel="!has(self.packing) || self.packing.boundaries == 'Ignore' || !has(self.tokenShards) || "
        "has(self.tokenShards.endOfTextToken)",
        message="tokenShards.endOfTextToken must be set if packing.boundaries is Loss or Attention: it tells where a "
        "document ends",
        holds=lambda data: (
            _boundaries(data) == "Ignore" or "tokenShards" not in data or "endOfTextToken" in data["tokenShards"]
        ),
    ),
)
"""The rules of `recipe.data` about its packing."""

_MASKED = (("HuggingFace", "huggingFace", "task", "MaskedLM"), ("Import", "import", "data", "MaskedText"))
"""Models that may be set to tell hidden tokens: `type`, its settings, and which setting says so."""
_IS = "(has(self.data.packing) && self.data.packing.boundaries == '{}')"


def _hides_tokens(model: PlainData) -> bool:
    return model["type"] == "Encoder" or any(
        model["type"] == word and model.get(key, {}).get(field) == value for word, key, field, value in _MASKED
    )


_CEL_HIDES_TOKENS = " || ".join(
    [
        "self.model.type == 'Encoder'",
        *(
            f"self.model.type == '{word}' && has(self.model.{cel_field(key)}) "
            f"&& self.model.{cel_field(key)}.{field} == '{value}'"
            for word, key, field, value in _MASKED
        ),
    ]
)

boundaries_suit_model = (
    Rule(
        cel=f"!{_IS.format('Loss')} || !({_CEL_HIDES_TOKENS})",
        message="data.packing.boundaries must not be Loss for a model that learns to tell hidden tokens: it is never "
        "asked for the token that comes next",
        holds=lambda data: _boundaries(data["data"]) != "Loss" or not _hides_tokens(data["model"]),
    ),
    Rule(
        cel=f"!{_IS.format('Attention')} || self.model.type == 'DecoderLM'",
        message="data.packing.boundaries must be Ignore or Loss unless model.type is DecoderLM: other models have no "
        "way to keep to a document within a sample",
        holds=lambda data: _boundaries(data["data"]) != "Attention" or data["model"]["type"] == "DecoderLM",
    ),
    Rule(
        cel=f"!{_IS.format('Attention')} || {cel_degree('self', 'pipeline')} == 1",
        message="parallelism.pipeline must be 1 if data.packing.boundaries is Attention: the tokens, which show where "
        "a document ends, stay with the first stage",
        holds=lambda data: _boundaries(data["data"]) != "Attention" or data["parallelism"]["pipeline"] == 1,
    ),
)
"""The rules of a recipe about how its model can keep to documents."""

boundaries_suit_task = (
    Rule(
        cel=f"!{_IS.format('Attention')}",
        message="data.packing.boundaries must be Ignore or Loss: a model of the Hugging Face library has no way to "
        "keep to a document within a sample",
        holds=lambda data: _boundaries(data["data"]) != "Attention",
    ),
    Rule(
        cel=f"!{_IS.format('Loss')} || !has(self.task) || self.task != 'MaskedLM'",
        message="data.packing.boundaries must not be Loss for task MaskedLM: it is never asked for the token that "
        "comes next",
        holds=lambda data: _boundaries(data["data"]) != "Loss" or data.get("task") != "MaskedLM",
    ),
)
"""The rules of `evaluation` about its packing."""
