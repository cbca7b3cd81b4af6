"""A decoder-only transformer language model, and any run of its layers.

    DecoderLM       token and position embeddings -> blocks -> norm -> head
    within_documents    the mask of packed documents, which the model makes of its tokens as it is asked to
    Block           x + attention(norm(x)), then x + mlp(norm(x))
    Attention       causal, separate q/k/v/out projections
    MLP, SwiGLU     expand, GELU, contract; or expand, times the SiLU of a gate, contract

A text is written token by token by `read`, which keeps keys and values of what was read (`models/key_values.py`).

Pre-norm as in GPT-2 (Radford et al. 2019); weights start as there. Heads have a fixed width, and how many there are is
read off what the projections give: a model whose heads or hidden channels were pruned is an ordinary model, and so is
one whose matrices are split among ranks. What may be pruned: in each layer whole heads of keys and values with the
query heads that use them, and hidden channels of the MLP; whole layers; and the width between layers, D, of them all.

Tied embeddings are one parameter with two names. A piece with the head and without the embedding has a copy.

Shape suffixes: B = batch (samples), T = tokens of a sample, D = embedding width, N = heads, K = heads of keys and
values, H = head width, M = hidden width of the MLP, V = vocabulary.
"""

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costopt.schema import models as language
from costopt_trainer.models.axes import Axes, of_linear, of_norm
from costopt_trainer.models.family import LayeredModel, ModelFamily, SplitRole, kept_layers
from costopt_trainer.models.key_values import KeysAndValues, KeyValueCache
from costopt_trainer.models.light import Linear, linear, make_sparse, normal_
from costopt_trainer.models.shape import ModelShape, Widths

INITIAL_STD = 0.02
"""Standard deviation of initial weights (GPT-2)."""

NORM_EPSILON = 1e-5


def rotation(num_tokens: int, width: int, base: int) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines (T, H), float32, of the angles by which `rotated` turns."""
    channels_H = torch.arange(width, dtype=torch.float32)
    positions_T = torch.arange(num_tokens, dtype=torch.float32)
    half = width // 2
    angles_TH = torch.outer(positions_T, base ** (-2 / width * (channels_H % half)))
    sines_TH = angles_TH.sin()
    return angles_TH.cos(), torch.where(channels_H < half, -sines_TH, sines_TH)


def rotated(x_BNTH: Tensor, cosines_TH: Tensor, sines_TH: Tensor) -> Tensor:
    """Each head's channels turned, in pairs (c, c + H/2), by angles that grow with the position (RoPE)."""
    # Rolled rather than cut and joined, which pruning could not follow.
    turned = x_BNTH.float() * cosines_TH + x_BNTH.float().roll(x_BNTH.shape[-1] // 2, dims=-1) * sines_TH
    return turned.type_as(x_BNTH)


def within_documents(tokens_BT: Tensor, separator_id: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """What each token of packed documents sees, bool (B, 1, T, T), and its position in its document, int64 (B, T).

    A document ends with its separator. What a sample has of it begins at position 0. Told of the tokens from `first`
    on: (B, 1, T - first, T) and (B, T - first).
    """
    positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    begins_BT = (tokens_BT == separator_id).roll(1, dims=1)  # what is rolled to the front is 0 in any case
    starts_BT = torch.where(begins_BT, positions_T, 0).cummax(dim=1).values
    own_T = positions_T
    if first:
        own_T, starts_BT = own_T[first:], starts_BT[:, first:]
    seen_BTT = (positions_T <= own_T.unsqueeze(1)) & (positions_T >= starts_BT.unsqueeze(2))
    return seen_BTT.unsqueeze(1), own_T - starts_BT


class Attention(nn.Module):
    """Causal self-attention of `inner_width // head_dim` heads.

    Raises ValueError if `inner_width` is not a whole number of heads, or not of groups of them.
    """

    cosines_TH: Tensor | None
    sines_TH: Tensor | None

    def __init__(self, settings: language.DecoderLM, dim: int, inner_width: int) -> None:
        """`settings` are as built; `dim` is what their embedding_dim is now."""
        super().__init__()
        rank, sparsity = settings.rank, settings.sparsity
        self.head_dim = settings.embedding_dim // settings.num_heads
        if inner_width % self.head_dim != 0:
            raise ValueError(f"attention width must be a multiple of the head width {self.head_dim}, not {inner_width}")
        heads_per_key = settings.num_heads // (settings.num_key_value_heads or settings.num_heads)
        if inner_width % (self.head_dim * heads_per_key) != 0:
            raise ValueError(f"attention must have a multiple of {heads_per_key} heads, which share keys and values")
        # Tables and not a formula: a compiler would compute the angles anew for each number that is turned.
        base = settings.rotary_base
        tables = (None, None) if base is None else rotation(settings.context_length, self.head_dim, base)
        for name, table_TH in zip(("cosines_TH", "sines_TH"), tables, strict=True):
            self.register_buffer(name, table_TH, persistent=False)
        biases = bool(settings.biases)
        key_width = inner_width // heads_per_key
        self.q = linear(dim, inner_width, bias=biases, rank=rank, sparsity=sparsity)
        self.k = linear(dim, key_width, bias=biases, rank=rank, sparsity=sparsity)
        self.v = linear(dim, key_width, bias=biases, rank=rank, sparsity=sparsity)
        self.out = linear(inner_width, dim, bias=biases, rank=rank, sparsity=sparsity)

    @property
    def num_heads(self) -> int:
        """Heads now: fewer than at first if some were pruned."""
        return self.q.out_features // self.head_dim

    @property
    def num_key_heads(self) -> int:
        """Heads of keys and values now."""
        return self.k.out_features // self.head_dim

    def forward(self, x_BTD: Tensor, seen_B1TT: Tensor | None = None, kept: KeysAndValues | None = None) -> Tensor:
        """Mixes each position with those before it, or of these with those that it sees; (B, T, D) -> (B, T, D).

        `kept` are those of the tokens before `x_BTD`, and gets those of these, too. Without `seen_B1TT` all of the
        former are seen; several tokens behind others need it.
        """
        # -1 rather than num_heads: pruning may change q, k and v while it traces this line.
        q_BNTH = self.q(x_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k_BKTH = self.k(x_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        v_BKTH = self.v(x_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if self.cosines_TH is not None and self.sines_TH is not None:
            first = 0 if kept is None else kept.num_tokens
            last = first + x_BTD.shape[-2]
            turn = self.cosines_TH[first:last], self.sines_TH[first:last]
            q_BNTH, k_BKTH = rotated(q_BNTH, *turn), rotated(k_BKTH, *turn)
        is_causal = seen_B1TT is None and (kept is None or kept.num_tokens == 0)
        if kept is not None:
            k_BKTH, v_BKTH = kept.add(k_BKTH, v_BKTH)
        times = q_BNTH.shape[1] // k_BKTH.shape[1]
        if times > 1:
            # Spelt out: asked to do it by itself (enable_gqa), attention leaves its fast kernels on some devices.
            k_BKTH, v_BKTH = (heads.repeat_interleave(times, dim=1) for heads in (k_BKTH, v_BKTH))
        mixed_BNTH = F.scaled_dot_product_attention(q_BNTH, k_BKTH, v_BKTH, attn_mask=seen_B1TT, is_causal=is_causal)
        return self.out(mixed_BNTH.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between, applied to each position by itself."""

    def __init__(self, settings: language.DecoderLM, dim: int, hidden_width: int) -> None:
        super().__init__()
        rank, sparsity, biases = settings.rank, settings.sparsity, bool(settings.biases)
        self.expand = linear(dim, hidden_width, bias=biases, rank=rank, sparsity=sparsity)
        self.contract = linear(hidden_width, dim, bias=biases, rank=rank, sparsity=sparsity)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D) through (B, T, M)."""
        hidden_BTM = F.gelu(self.expand(x_BTD))
        return self.contract(hidden_BTM)


class SwiGLU(MLP):
    """Three linear layers: one expands, one is the gate, whose SiLU multiplies that, and one contracts."""

    def __init__(self, settings: language.DecoderLM, dim: int, hidden_width: int) -> None:
        super().__init__(settings, dim, hidden_width)
        self.gate = linear(
            dim,
            hidden_width,
            bias=bool(settings.biases),
            rank=settings.rank,
            sparsity=settings.sparsity,
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D) through (B, T, M)."""
        hidden_BTM = F.silu(self.gate(x_BTD)) * self.expand(x_BTD)
        return self.contract(hidden_BTM)


def make_norm(settings: language.DecoderLM, dim: int) -> nn.Module:
    """The norm before each half of a block, and before the head; (..., D) -> (..., D)."""
    if settings.norm == "RMSNorm":
        return nn.RMSNorm(dim, eps=NORM_EPSILON)
    return nn.LayerNorm(dim, eps=NORM_EPSILON, bias=bool(settings.biases))


class Block(nn.Module):
    """One layer. Dropout falls on what each half adds, not on attention weights, so that fused kernels serve always."""

    def __init__(self, settings: language.DecoderLM, dim: int, attention_width: int, mlp_width: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(settings, dim)
        self.attention = Attention(settings, dim, attention_width)
        self.mlp_norm = make_norm(settings, dim)
        self.mlp = (SwiGLU if settings.mlp == "SwiGLU" else MLP)(settings, dim, mlp_width)
        self.dropout = nn.Dropout(settings.dropout_percent / 100)

    def forward(self, x_BTD: Tensor, seen_B1TT: Tensor | None = None, kept: KeysAndValues | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); `kept` as in Attention."""
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), seen_B1TT=seen_B1TT, kept=kept))
        return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))


_LETTERS: Mapping[str, str] = {
    "token_embedding.weight": "-D",
    "position_embedding.weight": "-D",
    **of_norm("layers.*.attention_norm"),
    **of_linear("layers.*.attention.q", "N", "D"),
    **of_linear("layers.*.attention.k", "K", "D"),
    **of_linear("layers.*.attention.v", "K", "D"),
    **of_linear("layers.*.attention.out", "D", "N"),
    **of_norm("layers.*.mlp_norm"),
    **of_linear("layers.*.mlp.expand", "M", "D"),
    **of_linear("layers.*.mlp.gate", "M", "D"),
    **of_linear("layers.*.mlp.contract", "D", "M"),
    **of_norm("norm"),
    "head.weight": "-D",
}
"""See Axes."""


class DecoderLM(LayeredModel):
    """The language model: int64 tokens (B, T) -> logits (B, T, V), T at most the context length.

    A piece of it (see `keep_layers`) takes hidden activations (B, T, D) if it lacks the first layer and gives them if
    it lacks the last.
    """

    layers_alike = True

    def __init__(
        self,
        settings: language.DecoderLM,
        vocabulary_size: int,
        widths: Widths,
        separator_id: int | None = None,
    ) -> None:
        """`widths` may give `attention` and `mlp`: one inner width per layer; `layers`: those that are left; and
        `embedding`: the width between them. Others are those of the settings. `separator_id`: a token behind which
        another document begins, if no token may see another document."""
        super().__init__()
        settings = settings.as_built()
        [dim] = widths.get("embedding", (settings.embedding_dim,))
        numbers = kept_layers(widths, settings.num_layers)
        attention_widths = widths.get("attention", (settings.embedding_dim,) * len(numbers))
        mlp_widths = widths.get("mlp", (settings.mlp_width or 0,) * len(numbers))
        self.layer_numbers = numbers if "layers" in widths else None
        self.num_layers = len(numbers)
        self.trained_dim = settings.embedding_dim
        self.layer_repeats = settings.layer_repeats or 1
        self.context_length = settings.context_length
        self.separator_id = separator_id
        self.token_embedding: nn.Embedding | None = nn.Embedding(vocabulary_size, dim)
        self.position_embedding: nn.Embedding | None = (
            nn.Embedding(settings.context_length, dim) if settings.positions == "Learned" else None
        )
        self.dropout = nn.Dropout(settings.dropout_percent / 100)
        self.layers = nn.ModuleDict(
            {
                str(layer): Block(settings, dim, attention_width, mlp_width)
                for layer, (_, attention_width, mlp_width) in enumerate(
                    zip(numbers, attention_widths, mlp_widths, strict=True)
                )
            }
        )
        self.norm: nn.Module | None = make_norm(settings, dim)
        self.head: nn.Linear | None = nn.Linear(dim, vocabulary_size, bias=False)
        if settings.tied_embeddings:
            self.tied = {"head.weight": "token_embedding.weight"}
            self.split_plan = {**self.split_plan, "token_embedding": "embedding"}
            self.head.weight = self.token_embedding.weight
        self._start_weights(settings)

    def _start_weights(self, settings: language.DecoderLM) -> None:
        # Each block adds twice to the residual stream; scaled so, its variance does not grow with depth.
        residual_std = INITIAL_STD / (2 * self.num_layers * self.layer_repeats) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            elif isinstance(module, Linear) and not name.endswith((".down", ".up")):
                if name == "head" and self.tied:
                    continue
                adds_to_residual = name.endswith((".attention.out", ".mlp.contract"))
                normal_(module, residual_std if adds_to_residual else INITIAL_STD)
        if settings.sparsity is not None:
            for module in self.layers.modules():
                if isinstance(module, nn.Linear):
                    make_sparse(module.weight, settings.sparsity)

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
        "layers.*.mlp.gate": "columns",
        "layers.*.mlp.contract": "rows",
        "norm": "norm",
        "head": "head",
    }

    def drop_ends(self, *, start: bool, end: bool) -> None:
        if start:
            self.token_embedding = self.position_embedding = None
            if self.tied and self.head is not None:
                self.head.weight = nn.Parameter(self.head.weight.detach().clone())
        if end:
            self.norm = self.head = None

    def widths(self) -> dict[str, tuple[int, ...]]:
        blocks = [cast(Block, block) for block in self.layers.values()]
        dim = self.trained_dim if self.token_embedding is None else self.token_embedding.embedding_dim
        return {
            "attention": tuple(block.attention.q.out_features for block in blocks),
            "mlp": tuple(block.mlp.expand.out_features for block in blocks),
            **({} if self.layer_numbers is None else {"layers": self.layer_numbers}),
            **({} if dim == self.trained_dim else {"embedding": (dim,)}),
        }

    def axes(self) -> Axes:
        attention = cast(Block, self.layers["0"]).attention
        return Axes(_LETTERS, attention.head_dim, attention.num_heads // attention.num_key_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T) or hidden activations (B, T, D) -> logits (B, T, V) or hidden activations (B, T, D)."""
        x = self.hidden(x)
        return x if self.head is None else self.head(x)

    @property
    def vocabulary_head(self) -> nn.Module | None:
        return self.head

    def hidden(self, x: Tensor) -> Tensor:
        """The same without the head."""
        seen_B1TT: Tensor | None = None
        if self.token_embedding is not None:
            positions = torch.arange(x.shape[1], device=x.device)
            if self.separator_id is not None:
                seen_B1TT, positions = within_documents(x, self.separator_id)
            x = self._embedded(x, positions)
        for block in self.layers.values():
            for _ in range(self.layer_repeats):
                x = block(x, seen_B1TT=seen_B1TT)
        return x if self.norm is None else self.norm(x)

    def _embedded(self, tokens_BT: Tensor, positions: Tensor) -> Tensor:
        assert self.token_embedding is not None  # noqa: S101  the caller has looked
        x_BTD = self.token_embedding(tokens_BT)
        return self.dropout(x_BTD if self.position_embedding is None else x_BTD + self.position_embedding(positions))

    @property
    def can_read(self) -> bool:
        """Whether `read` serves: of a whole model whose layers are ours. A step of another package may have put in
        others, which keep nothing."""
        whole = self.token_embedding is not None and self.norm is not None
        ours = (isinstance(block, Block) and isinstance(block.attention, Attention) for block in self.layers.values())
        return whole and all(ours)

    def read(self, tokens_BT: Tensor, cache: KeyValueCache) -> Tensor:
        """Read further tokens of the texts that `cache` is of, which then is of these, too: (B, T) -> (B, T, D), what
        `hidden` of the whole texts gives for these tokens.

        Raises ValueError if a text becomes longer than the context length, or if it cannot be done (see `can_read`).
        """
        if not self.can_read:
            raise ValueError("only a whole model with layers of its own keeps keys and values")
        first, num_tokens = cache.num_tokens, cache.num_tokens + tokens_BT.shape[1]
        if num_tokens > self.context_length:
            raise ValueError(f"a text must have at most {self.context_length} tokens, not {num_tokens}")
        if cache.tokens_BT is None:
            cache.tokens_BT = tokens_BT
            cache.passes = [KeysAndValues() for _ in range(len(self.layers) * self.layer_repeats)]
        else:
            cache.tokens_BT = torch.cat([cache.tokens_BT, tokens_BT], dim=1)
        seen_B1TT: Tensor | None = None
        positions = torch.arange(first, num_tokens, device=tokens_BT.device)
        if self.separator_id is not None:
            seen_B1TT, positions = within_documents(cache.tokens_BT, self.separator_id, first)
        elif first and tokens_BT.shape[1] > 1:
            seen_B1TT = positions.unsqueeze(1) >= torch.arange(num_tokens, device=tokens_BT.device)
        x_BTD = self._embedded(tokens_BT, positions)
        blocks = [block for block in self.layers.values() for _ in range(self.layer_repeats)]
        for block, kept in zip(blocks, cache.passes, strict=True):
            x_BTD = block(x_BTD, seen_B1TT=seen_B1TT, kept=kept)
        return x_BTD if self.norm is None else self.norm(x_BTD)

    def next_logits(self, tokens_BT: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits (B, V) of what follows on the texts of `cache`, once `tokens_BT` are read, too. Raises as `read`."""
        hidden_BTD = self.read(tokens_BT, cache)
        assert self.head is not None  # noqa: S101  only whole models read
        logits_BTV: Tensor = self.head(hidden_BTD[:, -1:])
        return logits_BTV[:, -1]


class DecoderLMFamily:
    """A row of the table: see ModelFamily."""

    may_change = frozenset({"dropoutPercent"})

    def context_length(self, settings: language.DecoderLM) -> int | None:
        return settings.context_length

    def build(self, settings: language.DecoderLM, shape: ModelShape, widths: Widths) -> DecoderLM:
        if shape.vocabulary_size is None:
            raise ValueError("the shape of a DecoderLM must give vocabulary_size")
        return DecoderLM(settings, shape.vocabulary_size, widths, shape.separator_id)


FAMILY: ModelFamily = DecoderLMFamily()
