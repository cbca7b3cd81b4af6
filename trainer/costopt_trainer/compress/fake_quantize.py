"""Quantization-aware training (Jacob et al., arXiv 1712.05877): the weights learn to be rounded before they are.

    train_rounded   trains a model whose linear layers compute with what few bits would hold
    Grid            the numbers of few bits that are nearest to others; backwards the rounding is not there

While it trains, a layer has its weights whole, and multiplies with what is left of them in few bits; where the scheme
quantizes activations, with these in few bits, too. The gradient passes the rounding as if it were not there (the
straight-through estimator, arXiv 1308.3432). Rounding is that of the scheme, to the same bits: torchao's for 8 bits,
onnxruntime's for 4. The layers' classes are exchanged meanwhile, so that names, ties and zeros stay. torchao has layers
for this (torchao.quantization.qat), which in 0.18 round groups with a zero point wrongly, and have no symmetric scale
for each token; what they are made of is used here.

This module imports torchao, which takes seconds: import it only for a quantized model.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costopt.schema.compression import DEFAULT_GROUP_SIZE, Quantize
from costopt_trainer.compress.fitting import Course, fit
from costopt_trainer.compress.step import StepRun
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.light import SparseLinear, kept
from costopt_trainer.storage.quantized_tensors import (
    MappingType,
    choose_qparams_affine,
    dequantize_affine,
    quantize_affine,
    should_reduce_range,
)

Rounding = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Grid:
    """Maps numbers (..., I) to the nearest ones that `bits` can hold; a scale for each group of a row."""

    bits: int
    symmetric: bool = True
    """Else there is a zero point, too."""
    group_size: int | None = None
    """Neighbours that share a scale; the last group may have fewer. None: a whole row."""

    def __call__(self, x: Tensor) -> Tensor:
        rounded: Tensor = _StraightThrough.apply(x, self)
        return rounded

    def nearest(self, x: Tensor) -> Tensor:
        """The same without a gradient."""
        width = x.shape[-1]
        size = self.group_size or width
        filled = F.pad(x, (0, -width % size))
        block = (1,) * (x.ndim - 1) + (size,)
        lowest = -(2 ** (self.bits - 1)) if self.symmetric else 0
        bounds = (lowest, lowest + 2**self.bits - 1)
        kind = MappingType.SYMMETRIC if self.symmetric else MappingType.ASYMMETRIC
        stored = torch.int8 if self.symmetric else torch.uint8
        eps = torch.finfo(torch.float32).eps
        scale, zero = choose_qparams_affine(filled, kind, block, stored, *bounds, eps=eps, scale_dtype=torch.float32)
        codes = quantize_affine(filled, block, scale, zero, stored, *bounds)
        found = dequantize_affine(codes, block, scale, zero, stored, *bounds, output_dtype=x.dtype)
        return found[..., :width]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        return grid.nearest(x)

    @staticmethod
    def backward(_ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class _RoundedLinear(nn.Linear):
    round_weight: Rounding
    round_input: Rounding | None
    is_sparse: bool

    def forward(self, x: Tensor) -> Tensor:
        weight = kept(self.weight, training=self.training) if self.is_sparse else self.weight
        return F.linear(x if self.round_input is None else self.round_input(x), self.round_weight(weight), self.bias)


class _RoundedEmbedding(nn.Embedding):
    round_weight: Rounding

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.round_weight(self.weight), self.padding_idx)


def grids(settings: Quantize, device: torch.device) -> tuple[Grid, Grid | None]:
    """What rounds weights on `device`, and what rounds activations."""
    if settings.scheme == "Int4WeightOnly":
        return Grid(4, symmetric=False, group_size=settings.group_size or DEFAULT_GROUP_SIZE), None
    if settings.scheme == "Int8WeightOnly":
        return Grid(8), None
    bits = 7 if should_reduce_range(device) else 8
    return Grid(bits), Grid(bits)


def train_rounded(
    model: LayeredModel, settings: Quantize, run: StepRun, linears: Mapping[str, nn.Module], tables: Mapping[str, Any]
) -> str:
    """Train `model` in place for `settings.fine_tune_steps`, with these layers rounded; returns what was done.

    `linears` have few bits afterwards, by name; `tables` are embeddings, and heads that are one, whose weights alone
    have. Raises as `fit` does.
    """
    weights, activations = grids(settings, next(model.parameters()).device)
    with _rounded(linears.values(), weights, activations), _rounded(tables.values(), weights, None):
        fitted = fit(model, run, Course(settings.fine_tune_steps or 1, settings.learning_rate))
    return f"trained with rounded weights: {fitted}"


@contextmanager
def _rounded(layers: Any, weights: Rounding, activations: Rounding | None) -> Iterator[None]:
    """The layers round; afterwards they are of the classes that they were of."""
    kinds = [(layer, type(layer)) for layer in layers]
    for layer, kind in kinds:
        layer.round_weight, layer.round_input = weights, activations
        layer.is_sparse = issubclass(kind, SparseLinear)
        layer.__class__ = _RoundedEmbedding if issubclass(kind, nn.Embedding) else _RoundedLinear
    try:
        yield
    finally:
        for layer, kind in kinds:
            layer.__class__ = kind
            del layer.round_weight, layer.round_input, layer.is_sparse
