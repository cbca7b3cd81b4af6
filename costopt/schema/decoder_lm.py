"""Settings of the decoder, and its presets.

A setting that is written holds; one that is left out is as the preset has it, and without a preset as a DecoderLM has
always been. So each of them has the default None, and `as_built` says what takes effect. Rules ask the same in CEL.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from costopt.schema.base import PlainData, Rule
from costopt.schema.data_kinds import TEXT
from costopt.schema.model_family import LowRank, SharedLayers, SparseLayers

NO_PRESET: PlainData = {
    "positions": "Learned", "norm": "LayerNorm", "mlp": "GELU", "biases": False, "tiedEmbeddings": False
}  # fmt: skip
PRESETS: dict[str, PlainData] = {
    "GPT2": {**NO_PRESET, "biases": True, "tiedEmbeddings": True},
    "Llama": {**NO_PRESET, "positions": "Rotary", "norm": "RMSNorm", "mlp": "SwiGLU"},
}
"""What settings are that a document leaves out."""

DEFAULT_ROTARY_BASE = 10_000


def _as_preset(data: PlainData, field: str) -> Any:
    """What takes effect for a field, from plain data."""
    return data.get(field, PRESETS.get(data.get("preset", ""), NO_PRESET)[field])


def _cel_is(field: str, value: str) -> str:
    """The same in CEL: whether it is `value`."""
    named = [f"self.preset == '{preset}'" for preset, fields in PRESETS.items() if fields[field] == value]
    left_out = [
        *(["!has(self.preset)"] if NO_PRESET[field] == value else []),
        *(f"has(self.preset) && {n}" for n in named),
    ]
    return f"(has(self.{field}) ? self.{field} == '{value}' : {' || '.join(left_out)})"


def _key_value_width(data: PlainData) -> int:
    return int(data["embeddingDim"] // data["numHeads"] * data.get("numKeyValueHeads", data["numHeads"]))


def _is_smaller(rank: int, first: int, second: int) -> bool:
    """Whether two factors of a matrix (first, second) have fewer weights than the matrix."""
    return rank * (first + second) < first * second


_CEL_KEY_VALUE_WIDTH = (
    "(self.embeddingDim / self.numHeads * (has(self.numKeyValueHeads) ? self.numKeyValueHeads : self.numHeads))"
)


def _cel_is_smaller(width: str) -> str:
    return f"self.rank * (self.embeddingDim + {width}) < self.embeddingDim * {width}"


class DecoderLM(LowRank, SharedLayers, SparseLayers):
    """A decoder-only transformer language model, pre-norm. Without a preset: learned positions, LayerNorm, GELU, no
    biases, untied embeddings."""

    reads = TEXT
    layers_field = "num_layers"
    heads_fields = ("num_heads", "num_key_value_heads")
    tokens_field = "context_length"
    whole_fields = ("rank",)

    preset: Literal["GPT2", "Llama"] | None = None
    """What the settings are that are left out. GPT2: learned positions, LayerNorm, GELU, biases, tied embeddings.
    Llama: rotary positions, RMSNorm, SwiGLU, no biases, untied embeddings. It sets no sizes. None means neither."""
    num_layers: Annotated[int, Field(ge=1, le=256)] = 4
    """Transformer blocks."""
    num_heads: Annotated[int, Field(ge=1, le=256)] = 4
    """Attention heads per block; embeddingDim must be a multiple of it."""
    num_key_value_heads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Heads of keys and values, each of which serves as many query heads as the others (grouped-query attention, arXiv
    2305.13245); numHeads must be a multiple of it. None means numHeads."""
    embedding_dim: Annotated[int, Field(ge=8, le=65536)] = 128
    """Width of the residual stream."""
    mlp_width: Annotated[int, Field(ge=1, le=1048576)] | None = None
    """Hidden width of each MLP. None means 4 times embeddingDim for GELU, and 8/3 times, up to the next multiple of 8,
    for SwiGLU, whose third matrix then makes up for it."""
    context_length: Annotated[int, Field(ge=8, le=1048576)] = 128
    """Tokens per sample."""
    dropout_percent: Annotated[int, Field(ge=0, le=90)] = 0
    """Percent of activations dropped while training. 0, because one pass over much text does not overfit."""
    positions: Literal["Learned", "Rotary"] | None = None
    """Learned: an embedding for each position. Rotary: queries and keys are turned by angles that grow with the
    position (RoPE, arXiv 2104.09864). None means as the preset has it."""
    rotary_base: Annotated[int, Field(ge=100, le=10**9)] | None = None
    """Base of the angles of Rotary positions; larger for very long contexts. None means 10000."""
    norm: Literal["LayerNorm", "RMSNorm"] | None = None
    """RMSNorm (arXiv 1910.07467) divides by the root of the mean square and subtracts no mean. None means as the preset
    has it."""
    mlp: Literal["GELU", "SwiGLU"] | None = None
    """GELU: two matrices. SwiGLU (arXiv 2002.05202): a third one is a gate. None means as the preset has it."""
    biases: bool | None = None
    """Whether linear layers and LayerNorms have biases. None means as the preset has it."""
    tied_embeddings: bool | None = None
    """Whether the matrix that gives the logits is that of the token embeddings. None means as the preset has it."""

    rules = (
        Rule(
            cel="self.embeddingDim % self.numHeads == 0",
            message="embeddingDim must be a multiple of numHeads",
            holds=lambda data: data["embeddingDim"] % data["numHeads"] == 0,
        ),
        Rule(
            cel="!has(self.numKeyValueHeads) || self.numHeads % self.numKeyValueHeads == 0",
            message="numHeads must be a multiple of numKeyValueHeads",
            holds=lambda data: data["numHeads"] % data.get("numKeyValueHeads", 1) == 0,
        ),
        Rule(
            cel=f"{_cel_is('positions', 'Learned')} || self.embeddingDim / self.numHeads % 2 == 0",
            message="embeddingDim / numHeads must be even for Rotary positions, which turn channels in pairs",
            holds=lambda data: (
                _as_preset(data, "positions") == "Learned" or data["embeddingDim"] // data["numHeads"] % 2 == 0
            ),
        ),
        Rule(
            cel=f"!has(self.rotaryBase) || {_cel_is('positions', 'Rotary')}",
            message="rotaryBase must not be set unless positions are Rotary",
            holds=lambda data: "rotaryBase" not in data or _as_preset(data, "positions") == "Rotary",
        ),
        Rule(
            cel=f"!has(self.rank) || {_cel_is_smaller(_CEL_KEY_VALUE_WIDTH)} && "
            f"(!has(self.mlpWidth) || {_cel_is_smaller('self.mlpWidth')})",
            message="rank must be so small that two factors have fewer weights than the matrix: less than half of "
            "embeddingDim, and less yet with few numKeyValueHeads or a small mlpWidth",
            holds=lambda data: (
                "rank" not in data
                or all(
                    _is_smaller(data["rank"], data["embeddingDim"], width)
                    for width in (_key_value_width(data), data.get("mlpWidth", 4 * data["embeddingDim"]))
                )
            ),
        ),
    )

    def as_built(self) -> Self:
        """The settings as they take effect: nothing is None that a preset or a default would fill."""
        data = self.to_plain()
        mlp = _as_preset(data, "mlp")
        filled = {
            "preset": None,
            "num_key_value_heads": self.num_key_value_heads or self.num_heads,
            "positions": (positions := _as_preset(data, "positions")),
            "norm": _as_preset(data, "norm"),
            "mlp": mlp,
            "mlp_width": self.mlp_width or default_mlp_width(mlp, self.embedding_dim),
            "biases": _as_preset(data, "biases"),
            "tied_embeddings": _as_preset(data, "tiedEmbeddings"),
            "rotary_base": (self.rotary_base or DEFAULT_ROTARY_BASE) if positions == "Rotary" else None,
            "layer_repeats": self.layer_repeats or 1,
        }
        return self.model_copy(update=filled)

    def shaping(self) -> dict[str, Any]:
        """A preset and the same settings written out are one. What is as it always was is left out: checkpoints from
        before a setting was there say nothing of it."""
        built = self.as_built()
        always = {
            **NO_PRESET,
            "numKeyValueHeads": built.num_heads,
            "mlpWidth": default_mlp_width(built.mlp, built.embedding_dim),
            "rotaryBase": DEFAULT_ROTARY_BASE,
            "layerRepeats": 1,
        }
        return {key: value for key, value in built.to_plain().items() if value != always.get(key)}


def default_mlp_width(mlp: str | None, embedding_dim: int) -> int:
    """Hidden width of an MLP whose settings give none."""
    return -(-8 * embedding_dim // 3 // 8) * 8 if mlp == "SwiGLU" else 4 * embedding_dim
