"""A recurrent language model, and any run of its layers.

    LSTM     token embedding -> layers -> norm -> head
    Layer    x + lstm(norm(x)); the state goes along the text

`run` takes the state that an earlier piece of text has left, and gives the next: a text may be read piece by piece, as
a training does that carries states (see recurrent.py). The recurrence is torch's own kernel over plain weights, so that
these can be sparse. No layer can be made narrower by itself, since what a layer adds to is as wide as its state.

Shape suffixes: B = batch (samples), T = tokens of a sample, D = width, G = 4 D (gates), S = layers as they are applied,
V = vocabulary. A state is (S, 2, B, D): of each layer, what it gave last and its cell.
"""

import warnings
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from costopt.schema import models as language
from costopt_trainer.models.family import ModelFamily, kept_layers
from costopt_trainer.models.light import kept, make_sparse
from costopt_trainer.models.recurrent import Recurrent
from costopt_trainer.models.shape import ModelShape, Widths

INITIAL_STD = 0.02
"""Of the embedding and the head."""


class Layer(nn.Module):
    """One layer. Its gates are in torch's order: input, forget, cell, output."""

    matrices: ClassVar[tuple[str, ...]] = ("input_GD", "recurrent_GD")
    """What compression may take single weights from."""

    def __init__(self, settings: language.LSTM) -> None:
        super().__init__()
        width = settings.embedding_dim
        self.is_sparse = settings.sparsity is not None
        self.norm = nn.LayerNorm(width)
        self.input_GD = nn.Parameter(torch.empty(4 * width, width))
        self.recurrent_GD = nn.Parameter(torch.empty(4 * width, width))
        self.bias_G = nn.Parameter(torch.zeros(4 * width))
        self.dropout = nn.Dropout(settings.dropout_percent / 100)
        for weight in (self.input_GD, self.recurrent_GD):
            nn.init.uniform_(weight, -(width**-0.5), width**-0.5)
            if settings.sparsity is not None:
                make_sparse(weight, settings.sparsity)
        with torch.no_grad():
            self.bias_G[width : 2 * width] = 1  # so that a fresh cell remembers

    def forward(self, x_BTD: Tensor, state_2BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, D), from a state (None: the empty one), and the state after the last token."""
        if state_2BD is None:
            batch, _, width = x_BTD.shape
            state_2BD = torch.zeros(2, batch, width, dtype=self.bias_G.dtype, device=x_BTD.device)
        masked = self.is_sparse and self.training
        weights = [kept(weight, training=masked) for weight in (self.input_GD, self.recurrent_GD)]
        with warnings.catch_warnings():
            # cuDNN copies weights together that lie apart; they are small beside what it does with them.
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
            y_BTD, output, cell = torch.lstm(
                self.norm(x_BTD).to(self.bias_G.dtype),
                list(state_2BD.unsqueeze(1).unbind()),
                [*weights, self.bias_G, torch.zeros_like(self.bias_G)],
                has_biases=True, num_layers=1, dropout=0.0, train=self.training, bidirectional=False, batch_first=True,
            )  # fmt: skip
        return x_BTD + self.dropout(y_BTD), torch.cat([output, cell])


class LSTM(Recurrent):
    """The language model: int64 tokens (B, T) -> logits (B, T, V), for any T.

    A piece of it (see `keep_layers`) takes hidden activations (B, T, D) if it lacks the first layer and gives them if
    it lacks the last.
    """

    layers_alike = True

    def __init__(self, settings: language.LSTM, vocabulary_size: int, widths: Widths) -> None:
        """`widths` may give `layers`: those that are left."""
        super().__init__()
        width = settings.embedding_dim
        numbers = kept_layers(widths, settings.num_layers)
        self.layer_numbers = numbers if "layers" in widths else None
        self.num_layers = len(numbers)
        self.layer_repeats = settings.layer_repeats or 1
        self.token_embedding: nn.Embedding | None = nn.Embedding(vocabulary_size, width)
        self.layers = nn.ModuleDict({str(layer): Layer(settings) for layer in range(self.num_layers)})
        self.norm: nn.LayerNorm | None = nn.LayerNorm(width)
        self.head: nn.Linear | None = nn.Linear(width, vocabulary_size, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=INITIAL_STD)
        nn.init.normal_(self.head.weight, std=INITIAL_STD)
        if settings.tied_embeddings:
            self.tied = {"head.weight": "token_embedding.weight"}
            self.head.weight = self.token_embedding.weight

    def drop_ends(self, *, start: bool, end: bool) -> None:
        if start:
            self.token_embedding = None
            if self.tied and self.head is not None:
                self.head.weight = nn.Parameter(self.head.weight.detach().clone())
        if end:
            self.norm = self.head = None

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {} if self.layer_numbers is None else {"layers": self.layer_numbers}

    def fresh_state(self, batch_size: int) -> Tensor:
        layers = [cast(Layer, layer) for layer in self.layers.values()]
        bias_G = layers[0].bias_G
        count = len(layers) * self.layer_repeats
        return torch.zeros(count, 2, batch_size, len(bias_G) // 4, dtype=bias_G.dtype, device=bias_G.device)

    def run(self, x: Tensor, state_S2BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x if self.token_embedding is None else self.token_embedding(x)
        layers = [layer for layer in self.layers.values() for _ in range(self.layer_repeats)]
        after = []
        for layer, before in zip(layers, [None] * len(layers) if state_S2BD is None else state_S2BD, strict=True):
            x, left_2BD = layer(x, before)
            after.append(left_2BD)
        return x if self.norm is None else self.norm(x), torch.stack(after)

    @property
    def vocabulary_head(self) -> nn.Module | None:
        return self.head


class LSTMFamily:
    """A row of the table: see ModelFamily."""

    may_change = frozenset({"dropoutPercent"})

    def context_length(self, settings: language.LSTM) -> int | None:
        return settings.context_length

    def build(self, settings: language.LSTM, shape: ModelShape, widths: Widths) -> LSTM:
        if shape.vocabulary_size is None:
            raise ValueError("the shape of a LSTM must give vocabulary_size")
        if widths.keys() - {"layers"}:
            raise ValueError("a LSTM has no inner widths")
        return LSTM(settings, shape.vocabulary_size, widths)


FAMILY: ModelFamily = LSTMFamily()
