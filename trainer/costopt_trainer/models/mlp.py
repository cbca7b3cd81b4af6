"""A classifier of the rows of a table, and any run of its layers.

Raw features are scaled by the means and deviations of the training split, which are buffers of the model: they travel
in checkpoints and artifacts, and whoever uses the model gives it raw features. Then hidden layers of a linear, ReLU and
dropout, and one linear. What may be pruned: the channels of every hidden layer.

Shape suffixes: B = batch (rows), F = features, W = width, K = classes.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from costopt.schema import models as language
from costopt_trainer.data.training_data import FeatureScales
from costopt_trainer.models.family import LayeredModel, ModelFamily, Prunable
from costopt_trainer.models.light import last_linear, linear, make_sparse, normal_
from costopt_trainer.models.shape import ModelShape, Widths


class Scale(nn.Module):
    """Features less their means, over their deviations: (B, F) -> (B, F)."""

    means_F: Tensor
    deviations_F: Tensor

    def __init__(self, num_features: int, scales: FeatureScales | None) -> None:
        """None: they come with the weights."""
        super().__init__()
        self.register_buffer("means_F", torch.zeros(num_features) if scales is None else scales.means_F.clone())
        self.register_buffer(
            "deviations_F", torch.ones(num_features) if scales is None else scales.deviations_F.clone()
        )

    def forward(self, x_BF: Tensor) -> Tensor:
        """Raw features to scaled ones."""
        return (x_BF - self.means_F) / self.deviations_F


class Layer(nn.Module):
    """One hidden layer: (B, in) -> (B, out)."""

    def __init__(self, settings: language.MLP, in_width: int, out_width: int, *, rank: int | None) -> None:
        super().__init__()
        self.linear = linear(in_width, out_width, bias=True, rank=rank, sparsity=settings.sparsity)
        normal_(self.linear, (2 / in_width) ** 0.5)  # keeps the variance through a ReLU (He et al. 2015)
        self.dropout = nn.Dropout(settings.dropout_percent / 100)

    def forward(self, x: Tensor) -> Tensor:
        """Not negative."""
        return self.dropout(self.linear(x).relu())


class MLP(LayeredModel):
    """The classifier: raw float features (B, F) -> logits (B, K).

    A piece of it (see `keep_layers`) takes or gives activations (B, W) where it lacks the first or last layer.
    """

    def __init__(
        self,
        settings: language.MLP,
        num_features: int,
        num_classes: int,
        scales: FeatureScales | None,
        widths: Widths,
    ) -> None:
        """`widths` may give `hidden`: one per layer; the default is that of the settings."""
        super().__init__()
        hidden = widths.get("hidden", (settings.width,) * settings.num_layers)
        self.num_layers = settings.num_layers
        self.scale: Scale | None = Scale(num_features, scales)
        # The first matrix is as small as there are few features, so it stays whole.
        self.layers = nn.ModuleDict(
            {
                str(layer): Layer(settings, before, after, rank=settings.rank if layer else None)
                for layer, (before, after) in enumerate(zip((num_features, *hidden[:-1]), hidden, strict=True))
            }
        )
        self.head: nn.Linear | None = nn.Linear(hidden[-1], num_classes)
        if settings.sparsity is not None:
            for module in self.layers.modules():
                if isinstance(module, nn.Linear):
                    make_sparse(module.weight, settings.sparsity)

    def drop_ends(self, *, start: bool, end: bool) -> None:
        if start:
            self.scale = None
        if end:
            self.head = None

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"hidden": tuple(cast(Layer, layer).linear.out_features for layer in self.layers.values())}

    def prunable(self) -> Iterator[Prunable]:
        for layer in self.layers.values():
            whole = cast(Layer, layer).linear
            yield Prunable(last_linear(whole), whole.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, F) or activations (B, W) -> logits (B, K) or activations."""
        x = x if self.scale is None else self.scale(x)
        for layer in self.layers.values():
            x = layer(x)
        return x if self.head is None else self.head(x)


class MLPFamily:
    """A row of the table: see ModelFamily."""

    may_change = frozenset({"dropoutPercent"})

    def context_length(self, _settings: language.MLP) -> int | None:
        return None

    def build(self, settings: language.MLP, shape: ModelShape, widths: Widths) -> MLP:
        if shape.num_features is None or shape.num_classes is None:
            raise ValueError("the shape of a MLP must give num_features and num_classes")
        return MLP(settings, shape.num_features, shape.num_classes, shape.feature_scales, widths)


FAMILY: ModelFamily = MLPFamily()
