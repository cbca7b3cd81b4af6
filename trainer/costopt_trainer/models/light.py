"""Layers with fewer weights, for any family.

linear, conv3x3       a layer as the settings want it: plain, of two factors, or with weights that stay zero
LowRankLinear         two linear layers in place of one
SparseLinear, SparseConv2d    weights that are zero stay zero while training
kept                  the same for a weight that a model holds by itself
stay_sparse           makes such a layer of one that has zeros
last_linear           the layer that gives a linear layer's output channels
normal_               initial weights, also of factors
make_sparse           sets the share of weights to zero that the settings want
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costopt.schema.model_family import Sparsity


class LowRankLinear(nn.Module):
    """(..., in) -> (..., rank) -> (..., out): a matrix of that rank at most."""

    def __init__(self, down: nn.Linear, up: nn.Linear) -> None:
        super().__init__()
        self.down, self.up = down, up

    @property
    def out_features(self) -> int:
        """Output channels now: fewer than at first if some were pruned."""
        return self.up.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.up(self.down(x))


def kept(weight: Tensor, *, training: bool) -> Tensor:
    """`weight`, of which what is zero gets no gradient and so stays zero.

    The zeros are the mask: it is sharded, pruned and saved with the weights, since there is nothing else. A weight that
    is not of the mask is never exactly zero, but by a chance that costs nothing.
    """
    return weight * (weight != 0) if training else weight


class SparseLinear(nn.Linear):
    """A linear layer whose zeros stay zero while training."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, kept(self.weight, training=self.training), self.bias)


class SparseConv2d(nn.Conv2d):
    """A convolution whose zeros stay zero while training."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H', W')."""
        return self._conv_forward(x, kept(self.weight, training=self.training), self.bias)


Linear = nn.Linear | LowRankLinear


def stay_sparse(layer: Any) -> None:
    """Have a linear, convolution or recurrent layer train around its zeros. What it computes stays as it was.

    The class is exchanged, so that names stay. A layer of a class that is not known here is left as it is.
    """
    kind = type(layer)
    if kind is nn.Linear:
        layer.__class__ = SparseLinear
    elif kind is nn.Conv2d:
        layer.__class__ = SparseConv2d
    elif kind.__name__ == "Conv1D":
        layer.__class__ = _sparse_conv1d(kind)
    elif hasattr(layer, "is_sparse"):
        layer.is_sparse = True


def _sparse_conv1d(kind: Any) -> Any:
    """A class for the linear layer of the Hugging Face library whose matrix has inputs first, which is `kind`."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training:
            whole: Tensor = kind.forward(self, x)  # to the same bits
            return whole
        return F.linear(x, kept(self.weight, training=True).T, self.bias)

    return type("SparseConv1D", (kind,), {"forward": forward, "__module__": kind.__module__})


def linear(
    in_features: int, out_features: int, *, bias: bool, rank: int | None = None, sparsity: Sparsity | None = None
) -> Linear:
    """A linear layer of a family with light settings; `make_sparse` sets its zeros."""
    make = nn.Linear if sparsity is None else SparseLinear
    if rank is None:
        return make(in_features, out_features, bias=bias)
    return LowRankLinear(make(in_features, rank, bias=False), make(rank, out_features, bias=bias))


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, sparsity: Sparsity | None = None) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps height and width, or divides them by `stride`."""
    make = nn.Conv2d if sparsity is None else SparseConv2d
    return make(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def last_linear(layer: Linear) -> nn.Linear:
    """What has one row of weights for each output channel of `layer`."""
    return layer.up if isinstance(layer, LowRankLinear) else layer


def normal_(layer: Linear, std: float) -> None:
    """Draw weights as of a matrix with entries of this standard deviation; biases are zero."""
    if isinstance(layer, LowRankLinear):
        # An entry of the product is a sum of `rank` products.
        std = (std**2 / layer.up.in_features) ** 0.25
        nn.init.normal_(layer.down.weight, std=std)
    last = last_linear(layer)
    nn.init.normal_(last.weight, std=std)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


@torch.no_grad()
def make_sparse(weight: Tensor, sparsity: Sparsity) -> None:
    """Set `percent` of `weight`, rounded down, to zero, in place, before the first step.

    The others grow, so that the sum of squares stays: what leaves the layer is as large as without zeros.
    """
    count = weight.numel() * sparsity.percent // 100
    scores = weight.abs() if sparsity.mask == "Magnitude" else torch.rand_like(weight)
    before = weight.square().sum()
    weight.view(-1)[scores.flatten().argsort(stable=True)[:count]] = 0
    weight *= (before / weight.square().sum()).sqrt()
