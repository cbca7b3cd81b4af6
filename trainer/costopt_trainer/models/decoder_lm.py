"""A decoder-only transformer language model, and any run of its layers.

    DecoderLM       token and position embeddings -> blocks -> norm -> head
    Block           x + attention(norm(x)), then x + mlp(norm(x))
    Attention       causal, separate q/k/v/out projections
    MLP             expand, GELU, contract

Pre-norm as in GPT-2 (Radford et al. 2019), without biases; weights start as there. Token embedding and head are two
matrices (not tied), because in a pipeline they live on different ranks. Heads have a fixed width and their number is
read off the q projection, so that a model whose heads or hidden channels were pruned is an ordinary model. What may be
pruned, in each layer: whole heads (query, key, value and output together), and hidden channels of the MLP.

Shape suffixes: B = batch (samples), T = tokens of a sample, D = embedding width, N = heads, H = head width,
M = hidden width of the MLP, V = vocabulary.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costopt.schema import models as language
from costopt_trainer.models.family import TOKENS, LayeredModel, ModelFamily, Prunable, SplitRole
from costopt_trainer.models.shape import ModelShape, Widths

INITIAL_STD = 0.02
"""Standard deviation of initial weights (GPT-2)."""

MLP_EXPANSION = 4
"""Hidden width of an MLP over the embedding width, unless `widths` says otherwise."""


class Attention(nn.Module):
    """Causal self-attention of `inner_width // head_dim` heads.

    Raises ValueError if `inner_width` is not a whole number of heads.
    """

    def __init__(self, embedding_dim: int, inner_width: int, head_dim: int) -> None:
        super().__init__()
        if inner_width % head_dim != 0:
            raise ValueError(f"attention width must be a multiple of the head width {head_dim}, not {inner_width}")
        self.head_dim = head_dim
        self.q = nn.Linear(embedding_dim, inner_width, bias=False)
        self.k = nn.Linear(embedding_dim, inner_width, bias=False)
        self.v = nn.Linear(embedding_dim, inner_width, bias=False)
        self.out = nn.Linear(inner_width, embedding_dim, bias=False)

    @property
    def num_heads(self) -> int:
        """Heads now: fewer than at first if some were pruned."""
        return self.q.out_features // self.head_dim

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Mixes each position with those before it; (B, T, D) -> (B, T, D)."""
        # -1 rather than num_heads: pruning may change q, k and v while it traces this line.
        q_BNTH = self.q(x_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k_BNTH = self.k(x_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        v_BNTH = self.v(x_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        mixed_BNTH = F.scaled_dot_product_attention(q_BNTH, k_BNTH, v_BNTH, is_causal=True)
        return self.out(mixed_BNTH.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between, applied to each position by itself."""

    def __init__(self, embedding_dim: int, hidden_width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(embedding_dim, hidden_width, bias=False)
        self.contract = nn.Linear(hidden_width, embedding_dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D) through (B, T, M)."""
        hidden_BTM = F.gelu(self.expand(x_BTD))
        return self.contract(hidden_BTM)


class Block(nn.Module):
    """One layer. Dropout falls on what each half adds, not on attention weights, so that fused kernels serve always."""

    def __init__(self, settings: language.DecoderLM, attention_width: int, mlp_width: int) -> None:
        super().__init__()
        dim = settings.embedding_dim
        self.attention_norm = nn.LayerNorm(dim, bias=False)
        self.attention = Attention(dim, attention_width, dim // settings.num_heads)
        self.mlp_norm = nn.LayerNorm(dim, bias=False)
        self.mlp = MLP(dim, mlp_width)
        self.dropout = nn.Dropout(settings.dropout_percent / 100)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD)))
        return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))


class DecoderLM(LayeredModel):
    """The language model: int64 tokens (B, T) -> logits (B, T, V), T at most the context length.

    A piece of it (see `keep_layers`) takes hidden activations (B, T, D) if it lacks the first layer and gives them if
    it lacks the last.
    """

    def __init__(
        self,
        settings: language.DecoderLM,
        vocabulary_size: int,
        widths: Widths,
    ) -> None:
        """`widths` may give `attention` and `mlp`: one inner width per layer; the defaults are D and 4 D."""
        super().__init__()
        dim = settings.embedding_dim
        attention_widths = widths.get("attention", (dim,) * settings.num_layers)
        mlp_widths = widths.get("mlp", (MLP_EXPANSION * dim,) * settings.num_layers)
        self.num_layers = settings.num_layers
        self.context_length = settings.context_length
        self.token_embedding: nn.Embedding | None = nn.Embedding(vocabulary_size, dim)
        self.position_embedding: nn.Embedding | None = nn.Embedding(settings.context_length, dim)
        self.dropout = nn.Dropout(settings.dropout_percent / 100)
        self.layers = nn.ModuleDict(
            {
                str(layer): Block(settings, attention_width, mlp_width)
                for layer, (attention_width, mlp_width) in enumerate(zip(attention_widths, mlp_widths, strict=True))
            }
        )
        self.norm: nn.LayerNorm | None = nn.LayerNorm(dim, bias=False)
        self.head: nn.Linear | None = nn.Linear(dim, vocabulary_size, bias=False)
        self._start_weights()

    def _start_weights(self) -> None:
        # Each block adds twice to the residual stream; scaled so, its variance does not grow with depth.
        residual_std = INITIAL_STD / (2 * self.num_layers) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                adds_to_residual = name.endswith((".attention.out", ".mlp.contract"))
                nn.init.normal_(module.weight, std=residual_std if adds_to_residual else INITIAL_STD)

    split_plan: Mapping[str, SplitRole] = {
        "dropout": "entry",
        "layers.*.attention_norm": "norm",
        "layers.*.attention": "sublayer",
        "layers.*.attention.q": "columns",
        "layers.*.attention.k": "columns",
        "layers.*.attention.v": "columns",
        "layers.*.attention.out": "rows",
        "layers.*.mlp_norm": "norm",
        "layers.*.mlp": "sublayer",
        "layers.*.mlp.expand": "columns",
        "layers.*.mlp.contract": "rows",
        "norm": "norm",
        "head": "head",
    }

    def drop_ends(self, *, start: bool, end: bool) -> None:
        if start:
            self.token_embedding = self.position_embedding = None
        if end:
            self.norm = self.head = None

    def widths(self) -> dict[str, tuple[int, ...]]:
        blocks = [cast(Block, block) for block in self.layers.values()]
        return {
            "attention": tuple(block.attention.q.out_features for block in blocks),
            "mlp": tuple(block.mlp.expand.out_features for block in blocks),
        }

    def prunable(self) -> Iterator[Prunable]:
        for block in self.layers.values():
            attention, mlp = cast(Block, block).attention, cast(Block, block).mlp
            yield Prunable(attention.q, attention.q.out_features, attention.head_dim)
            yield Prunable(mlp.expand, mlp.expand.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T) or hidden activations (B, T, D) -> logits (B, T, V) or hidden activations (B, T, D)."""
        if self.token_embedding is not None and self.position_embedding is not None:
            positions_T = torch.arange(x.shape[1], device=x.device)
            x = self.dropout(self.token_embedding(x) + self.position_embedding(positions_T))
        for block in self.layers.values():
            x = block(x)
        if self.norm is not None and self.head is not None:
            x = self.head(self.norm(x))
        return x


class DecoderLMFamily:
    """A row of the table: see ModelFamily."""

    metric = TOKENS
    may_change = frozenset({"dropoutPercent"})

    def context_length(self, settings: language.DecoderLM) -> int | None:
        return settings.context_length

    def build(self, settings: language.DecoderLM, shape: ModelShape, widths: Widths) -> DecoderLM:
        if shape.vocabulary_size is None:
            raise ValueError("the shape of a DecoderLM must give vocabulary_size")
        return DecoderLM(settings, shape.vocabulary_size, widths)


FAMILY: ModelFamily = DecoderLMFamily()
