"""A transformer encoder, and any run of its layers: tokens see those before and behind them.

    Encoder            token and position embeddings -> blocks -> head, over each token or over the document
    Block              attention, then MLPs; with a bottleneck, between two linear layers that fit its narrower width
    Attention          among all tokens but padding, separate q/k/v/out projections
    MLP                expand, GELU, contract

Layer norms are before what each part computes, and one before the head (pre-norm), or after what each part adds, and
one behind the embeddings (post-norm, as in BERT, arXiv 1810.04805). With a bottleneck a block is MobileBERT's (arXiv
2004.02984): attention and several MLPs work on fewer channels, and the wide stream goes around them; its layer norms
are kept, where MobileBERT replaces them.

A token that is `pad_id` is no part of a document: nobody sees it, and the mean leaves it out. The model makes the mask
itself. A piece that lacks the first layer gets it as the last of its input's channels, and one that lacks the last
layer gives it so, because one tensor is all that passes between pieces.

Heads have a fixed width and their number is read off the q projection, so that a model whose heads or hidden channels
were pruned, or are shared among ranks, is an ordinary model. What may be pruned: in each layer whole heads, and hidden
channels of each MLP; whole layers; and the width between layers, D, of all of them.

Shape suffixes: B = batch (samples), T = tokens of a sample, D = embedding width, E = width within a layer (D without a
bottleneck), N = heads, H = head width, M = hidden width of an MLP, V = vocabulary, K = classes.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costopt.schema import encoder as language
from costopt_trainer.models.axes import Axes, of_linear, of_norm
from costopt_trainer.models.family import LayeredModel, ModelFamily, kept_layers
from costopt_trainer.models.light import Linear, linear, make_sparse, normal_
from costopt_trainer.models.shape import ModelShape, Widths

INITIAL_STD = 0.02
"""Standard deviation of initial weights (BERT)."""

MLP_EXPANSION = 4
"""Hidden width of an MLP over the width within its layer, unless `widths` says otherwise."""


class Attention(nn.Module):
    """Self-attention of heads as wide as those of the settings. Raises ValueError if `inner_width` is not a whole
    number of them."""

    def __init__(self, settings: language.Encoder, width: int, inner_width: int) -> None:
        super().__init__()
        rank, sparsity = settings.rank, settings.sparsity
        head_dim = (settings.bottleneck_dim or settings.embedding_dim) // settings.num_heads
        if inner_width % head_dim != 0:
            raise ValueError(f"attention width must be a multiple of the head width {head_dim}, not {inner_width}")
        self.head_dim = head_dim
        self.q = linear(width, inner_width, bias=True, rank=rank, sparsity=sparsity)
        self.k = linear(width, inner_width, bias=True, rank=rank, sparsity=sparsity)
        self.v = linear(width, inner_width, bias=True, rank=rank, sparsity=sparsity)
        self.out = linear(inner_width, width, bias=True, rank=rank, sparsity=sparsity)

    def forward(self, x_BTE: Tensor, real_BT: Tensor) -> Tensor:
        """Mixes all positions that are `real_BT`, bool (B, T); (B, T, E) -> (B, T, E)."""
        # -1 for the heads: pruning may change q, k and v while it traces this line, and a rank may hold some of them.
        q_BNTH = self.q(x_BTE).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k_BNTH = self.k(x_BTE).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        v_BNTH = self.v(x_BTE).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        seen_B11T = real_BT[:, None, None, :]
        mixed_BNTH = F.scaled_dot_product_attention(q_BNTH, k_BNTH, v_BNTH, attn_mask=seen_B11T)
        return self.out(mixed_BNTH.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between, applied to each position by itself."""

    def __init__(self, settings: language.Encoder, width: int, hidden_width: int) -> None:
        super().__init__()
        rank, sparsity = settings.rank, settings.sparsity
        self.expand = linear(width, hidden_width, bias=True, rank=rank, sparsity=sparsity)
        self.contract = linear(hidden_width, width, bias=True, rank=rank, sparsity=sparsity)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """(B, T, E) -> (B, T, E) through (B, T, M)."""
        hidden_BTM = F.gelu(self.expand(x_BTE))
        return self.contract(hidden_BTM)


class Block(nn.Module):
    """One layer. Dropout falls on what each part adds, not on attention weights, so that fused kernels serve always."""

    def __init__(self, settings: language.Encoder, dim: int, attention_width: int, mlp_widths: tuple[int, ...]) -> None:
        """`dim` is what the embedding_dim of the settings is now."""
        super().__init__()
        width = settings.bottleneck_dim or dim
        self.is_pre = settings.norm == "Pre"
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(settings, width, attention_width)
        self.mlp_norms = nn.ModuleList(nn.LayerNorm(width) for _ in mlp_widths)
        self.mlps = nn.ModuleList(MLP(settings, width, hidden) for hidden in mlp_widths)
        self.dropout = nn.Dropout(settings.dropout_percent / 100)
        self.narrow: nn.Linear | None = None
        self.widen: nn.Linear | None = None
        self.norm: nn.LayerNorm | None = None
        if settings.bottleneck_dim is not None:
            self.narrow = nn.Linear(dim, width)
            self.widen = nn.Linear(width, dim)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x_BTD: Tensor, real_BT: Tensor) -> Tensor:
        """(B, T, D) and what of it is no padding (B, T) -> (B, T, D)."""
        if self.narrow is None or self.widen is None or self.norm is None:
            return self._inner(x_BTD, real_BT)
        if self.is_pre:
            return x_BTD + self.dropout(self.widen(self._inner(self.narrow(self.norm(x_BTD)), real_BT)))
        return self.norm(x_BTD + self.dropout(self.widen(self._inner(self.narrow(x_BTD), real_BT))))

    def _inner(self, x_BTE: Tensor, real_BT: Tensor) -> Tensor:
        if self.is_pre:
            x_BTE = x_BTE + self.dropout(self.attention(self.attention_norm(x_BTE), real_BT))
            for norm, mlp in zip(self.mlp_norms, self.mlps, strict=True):
                x_BTE = x_BTE + self.dropout(mlp(norm(x_BTE)))
            return x_BTE
        x_BTE = self.attention_norm(x_BTE + self.dropout(self.attention(x_BTE, real_BT)))
        for norm, mlp in zip(self.mlp_norms, self.mlps, strict=True):
            x_BTE = norm(x_BTE + self.dropout(mlp(x_BTE)))
        return x_BTE


def _letters(within: str) -> dict[str, str]:
    """See Axes; `within` is the letter of the width within a layer."""
    return {
        "token_embedding.weight": "-D",
        "position_embedding.weight": "-D",
        **of_norm("embedding_norm"),
        **of_norm("layers.*.norm"),
        **of_linear("layers.*.narrow", "-", "D"),
        **of_linear("layers.*.widen", "D", "-"),
        **of_norm("layers.*.attention_norm", within),
        **of_linear("layers.*.attention.q", "N", within),
        **of_linear("layers.*.attention.k", "N", within),
        **of_linear("layers.*.attention.v", "N", within),
        **of_linear("layers.*.attention.out", within, "N"),
        **of_norm("layers.*.mlp_norms.*", within),
        **of_linear("layers.*.mlps.*.expand", "M", within),
        **of_linear("layers.*.mlps.*.contract", within, "M"),
        **of_norm("norm"),
        **of_linear("head", "-", "D"),
    }


class Encoder(LayeredModel):
    """The model: int64 tokens (B, T), T at most the context length -> logits (B, T, V), or (B, K) for a classifier.

    A piece of it (see `keep_layers`) takes activations (B, T, D + 1) if it lacks the first layer and gives them if it
    lacks the last; the last channel is 1 for a token and 0 for padding.
    """

    layers_alike = True

    def __init__(
        self, settings: language.Encoder, vocabulary_size: int, num_outputs: int, pad_id: int, widths: Widths
    ) -> None:
        """`widths` may give `attention`, one inner width per layer, and `mlp`, one per layer and MLP (the defaults are
        E and 4 E); `layers`: those that are left; and `embedding`: the width between them."""
        super().__init__()
        [dim] = widths.get("embedding", (settings.embedding_dim,))
        inner, of_layer = settings.bottleneck_dim or settings.embedding_dim, settings.mlps_per_layer
        numbers = kept_layers(widths, settings.num_layers)
        attention_widths = widths.get("attention", (inner,) * len(numbers))
        mlp_widths = widths.get("mlp", (MLP_EXPANSION * inner,) * (len(numbers) * of_layer))
        if len(mlp_widths) != len(numbers) * of_layer:
            raise ValueError(f"widths must give {of_layer} MLPs for each of {len(numbers)} layers")
        self.layer_numbers = numbers if "layers" in widths else None
        self.num_layers = len(numbers)
        self.trained_dim = settings.embedding_dim
        self.has_bottleneck = settings.bottleneck_dim is not None
        self.layer_repeats = settings.layer_repeats or 1
        self.pad_id = pad_id
        self.pooling: Literal["Mean", "FirstToken"] | None = (
            settings.pooling if settings.task == "Classification" else None
        )
        is_post = settings.norm == "Post"
        self.token_embedding: nn.Embedding | None = nn.Embedding(vocabulary_size, dim)
        self.position_embedding: nn.Embedding | None = nn.Embedding(settings.context_length, dim)
        self.embedding_norm: nn.LayerNorm | None = nn.LayerNorm(dim) if is_post else None
        self.dropout = nn.Dropout(settings.dropout_percent / 100)
        self.layers = nn.ModuleDict(
            {
                str(layer): Block(settings, dim, width, mlp_widths[layer * of_layer : (layer + 1) * of_layer])
                for layer, (_, width) in enumerate(zip(numbers, attention_widths, strict=True))
            }
        )
        self.norm: nn.LayerNorm | None = None if is_post else nn.LayerNorm(dim)
        self.head: nn.Linear | None = nn.Linear(dim, num_outputs)
        self._start_weights(settings)

    def _start_weights(self, settings: language.Encoder) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            elif isinstance(module, Linear) and not name.endswith((".down", ".up")):
                normal_(module, INITIAL_STD)
        if settings.sparsity is not None:
            for module in self.layers.modules():
                if isinstance(module, nn.Linear):
                    make_sparse(module.weight, settings.sparsity)

    def drop_ends(self, *, start: bool, end: bool) -> None:
        if start:
            self.token_embedding = self.position_embedding = self.embedding_norm = None
        if end:
            self.norm = self.head = None

    def widths(self) -> dict[str, tuple[int, ...]]:
        blocks = [cast(Block, block) for block in self.layers.values()]
        dim = self.trained_dim if self.token_embedding is None else self.token_embedding.embedding_dim
        return {
            "attention": tuple(block.attention.q.out_features for block in blocks),
            "mlp": tuple(cast(MLP, mlp).expand.out_features for block in blocks for mlp in block.mlps),
            **({} if self.layer_numbers is None else {"layers": self.layer_numbers}),
            **({} if dim == self.trained_dim else {"embedding": (dim,)}),
        }

    def axes(self) -> Axes:
        return Axes(_letters("-" if self.has_bottleneck else "D"), cast(Block, self.layers["0"]).attention.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T) or activations (B, T, D + 1) -> logits (B, T, V) or (B, K), or activations (B, T, D + 1)."""
        x = self.hidden(x)
        return x if self.head is None else self.head(x)

    @property
    def vocabulary_head(self) -> nn.Module | None:
        return self.head if self.pooling is None else None

    def hidden(self, x: Tensor) -> Tensor:
        """The same without the head: what that sees."""
        if self.token_embedding is not None and self.position_embedding is not None:
            real_BT = x != self.pad_id
            positions_T = torch.arange(x.shape[1], device=x.device)
            x_BTD = self.token_embedding(x) + self.position_embedding(positions_T)
            x_BTD = self.dropout(x_BTD if self.embedding_norm is None else self.embedding_norm(x_BTD))
        else:
            x_BTD, real_BT = x[..., :-1], x[..., -1] > 0
        for block in self.layers.values():
            for _ in range(self.layer_repeats):
                x_BTD = block(x_BTD, real_BT)
        if self.head is None:
            return torch.cat([x_BTD, real_BT.unsqueeze(-1).to(x_BTD.dtype)], dim=-1)
        x_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
        return self._pooled(x_BTD, real_BT)

    def _pooled(self, x_BTD: Tensor, real_BT: Tensor) -> Tensor:
        """What the head sees: each token for itself (B, T, D), or the document (B, D)."""
        if self.pooling is None:
            return x_BTD
        if self.pooling == "FirstToken":
            return x_BTD[:, 0]
        weights_BT = real_BT / real_BT.sum(dim=1, keepdim=True).clamp(min=1)
        return (x_BTD * weights_BT.unsqueeze(-1).to(x_BTD.dtype)).sum(dim=1)


class EncoderFamily:
    """A row of the table: see ModelFamily."""

    may_change = frozenset({"dropoutPercent"})

    def context_length(self, settings: language.Encoder) -> int | None:
        return settings.context_length

    def build(self, settings: language.Encoder, shape: ModelShape, widths: Widths) -> Encoder:
        num_outputs = shape.num_classes if settings.task == "Classification" else shape.vocabulary_size
        if shape.vocabulary_size is None or shape.pad_id is None or num_outputs is None:
            raise ValueError(
                "the shape of an Encoder must give vocabulary_size, pad_id and for a classifier num_classes"
            )
        return Encoder(settings, shape.vocabulary_size, num_outputs, shape.pad_id, widths)


FAMILY: ModelFamily = EncoderFamily()
