"""How much each layer minds fewer bits: which ones a Quantize step keeps, and what a search may expect.

layers_of        the layers that a scheme quantizes, by name
measure_layers   the loss's rise with each of them alone in fewer bits
layers_to_keep   the layers that stay in more bits
Rises            these figures: the largest ones, what all of them come to, and the same for a report

One layer at a time is rounded as its scheme would, and the loss taken on a few samples; then it is whole again. For
schemes with activations of 8 bits the layer's inputs are rounded, too, in the range of the batch. It is the loss itself
that tells layers apart, and not its curvature as in HAWQ (arXiv 1905.03696): passes forward are enough, and nothing is
assumed of the model. That the rises of single layers add up is an estimate, from which only an order is taken.

The samples were held out from training and are none of those that judge a variant; of data that has no such, they are
training samples. They are drawn by a fixed seed: the same model and data give the same figures.

Shape suffixes: O = outputs of a layer, I = all that one of them sums up, G = groups of that.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from costopt.schema.compression import Quantize
from costopt.schema.variant_details import MAX_LAYERS, LayerSensitivity, Sensitivity
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.data import Batch
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.loss import IGNORED_TARGET, each_loss

SAMPLES = 32
"""That losses are over, if the data has as many."""
FEWEST = 8
"""Held-out samples that do not judge; where there are fewer, training samples are taken."""
SEED = 0
GROUP_SIZE = 32
"""Of 4-bit weights, if the settings do not say: as in the graph."""
FLOAT8 = ("Float8WeightOnly", "Float8DynamicActivation")
MOST = 1e30
"""In place of a rise that is no number."""


@dataclass(frozen=True)
class Rises:
    """What fewer bits of single layers do to the loss."""

    scheme: str
    loss: float
    """Mean loss of the whole model, nats per target."""
    of_layers: Mapping[str, float]
    """Name of a layer -> by how much that rises, at most MOST; in the model's order."""
    samples: int
    samples_of: Literal["HeldOut", "Training"]

    def ranked(self) -> list[str]:
        """All names, the largest rise first; of equal ones the model's first."""
        return sorted(self.of_layers, key=lambda name: -self.of_layers[name])

    def most_sensitive(self, percent: int) -> list[str]:
        """The names of so many percent of the layers, rounded up, with the largest rises."""
        return self.ranked()[: math.ceil(len(self.of_layers) * percent / 100)]

    def together(self, without: int = 0) -> float:
        """The sum of all rises but the `without` largest ones; layers that gain by it count as 0."""
        return sum(max(0.0, self.of_layers[name]) for name in self.ranked()[without:])

    def told(self, kept: frozenset[str]) -> Sensitivity:
        """For a report."""
        return Sensitivity(
            scheme=self.scheme,
            samples=self.samples,
            samples_of=self.samples_of,
            loss=f"{self.loss:.6g}",
            layers=[
                LayerSensitivity(layer=name[:256], loss_increase=f"{self.of_layers[name]:.6g}", kept=name in kept)
                for name in self.ranked()[:MAX_LAYERS]
            ],
            layers_measured=len(self.of_layers),
            layers_kept=len(kept),
        )


def layers_of(model: nn.Module, scheme: str = "") -> dict[str, nn.Module]:
    """The layers of `model` that `scheme` quantizes, by name: linear ones, of Int8Static convolutions too. A head that
    is the embedding is none."""
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d) if scheme == "Int8Static" else (nn.Linear,)
    tied = model.tied if isinstance(model, LayeredModel) else {}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and f"{name}.weight" not in tied
    }


def measure_layers(
    model: LayeredModel,
    settings: Quantize,
    judged_on: HeldOut,
    done: Callable[[int, int], Any] = lambda _number, _of: None,
) -> Rises:
    """The loss's rise with each layer alone in the bits of `settings`.

    `model` is in eval mode, and is as it was afterwards; `judged_on` has the data, and the samples not to look at;
    `done(3, 10)` is called after each layer.
    """
    indices, samples_of = _samples(judged_on)
    data, size = judged_on.data, judged_on.batch_size
    read = data.validation_batch if samples_of == "HeldOut" else data.train_batch
    device = next(model.parameters()).device
    batches = []
    for start in range(0, len(indices), size):
        inputs, targets = read(indices[start : start + size])
        batches.append((inputs.to(device), targets.to(device)))
    loss = _loss(model, batches)
    layers, rises = layers_of(model, settings.scheme), {}
    for number, (name, layer) in enumerate(layers.items(), start=1):
        with _rounded(layer, settings):
            rise = _loss(model, batches) - loss
        rises[name] = min(rise, MOST) if math.isfinite(rise) else MOST
        done(number, len(layers))
    return Rises(settings.scheme, loss, rises, len(indices), samples_of)


def layers_to_keep(rises: Rises, percent: int) -> frozenset[str]:
    """The layers that stay in more bits. Raises NotRetryable("InvalidSettings") if these are all."""
    kept, count = rises.most_sensitive(percent), len(rises.of_layers)
    if len(kept) == count:
        raise NotRetryable(
            "InvalidSettings",
            f"quantize.keepLayersPercent must leave a layer to quantize: {rises.scheme} has {count} of them here, and "
            f"{percent} percent are {len(kept)}",
        )
    return frozenset(kept)


def _samples(judged_on: HeldOut) -> tuple[Any, Literal["HeldOut", "Training"]]:
    """Numbers of samples to measure on, and of which split; whole batches of them where there are as many."""
    data, drawn = judged_on.data, np.random.default_rng(SEED)
    apart = np.setdiff1d(np.arange(data.num_validation_samples, dtype=np.int64), judged_on.judging())
    if len(apart) >= FEWEST:
        return drawn.permutation(apart)[:SAMPLES], "HeldOut"
    return drawn.permutation(data.num_train_samples)[:SAMPLES].astype(np.int64), "Training"


@torch.no_grad()
def _loss(model: nn.Module, batches: list[Batch]) -> float:
    total, count = 0.0, 0
    for inputs, targets in batches:
        total += float(each_loss(model(inputs), targets).sum(dtype=torch.float64))
        count += int((targets != IGNORED_TARGET).sum())
    return total / max(count, 1)


@contextmanager
def _rounded(layer: nn.Module, settings: Quantize) -> Iterator[None]:
    """`layer` as it would be in fewer bits."""
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101  of linear layers and convolutions it is
    before = weight.detach().clone()
    rounding = ROUNDED_INPUTS.get(settings.scheme)
    hook = layer.register_forward_pre_hook(rounding) if rounding is not None else None
    try:
        with torch.no_grad():
            weight.copy_(rounded_weights(before, settings))
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)
        if hook is not None:
            hook.remove()


def rounded_weights(weight: Tensor, settings: Quantize) -> Tensor:
    """A layer's weights (O, ...) in the bits of `settings`, as numbers of their own type again: 4 bits with a zero
    point for each group, or 8 bits (of integers or floats), symmetric with a scale for each output."""
    weight_OI = weight.flatten(1).float()
    if settings.scheme in FLOAT8:
        return _in_float8(weight_OI, dim=1).view_as(weight).to(weight.dtype)
    if settings.scheme != "Int4WeightOnly":
        scale_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        rounded_OI = (weight_OI / scale_O1).round() * scale_O1
        return rounded_OI.view_as(weight).to(weight.dtype)
    size = settings.group_size or GROUP_SIZE
    inputs = weight_OI.shape[1]
    groups_OGI = nn.functional.pad(weight_OI, (0, -inputs % size)).unflatten(1, (-1, size))
    return _in_range(groups_OGI, 15, dim=2).flatten(1)[:, :inputs].reshape(weight.shape).to(weight.dtype)


def _round_inputs(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook before a layer: its inputs in 8 bits."""
    inputs = arguments[0]
    return (_in_range(inputs.flatten().float(), 255, dim=0).view_as(inputs).to(inputs.dtype), *arguments[1:])


def _round_inputs_to_float8(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same in floats of 8 bits, with a scale for each position."""
    inputs = arguments[0]
    return (_in_float8(inputs.float(), dim=-1).to(inputs.dtype), *arguments[1:])


def _in_float8(values: Tensor, *, dim: int) -> Tensor:
    """`values` as floats of 8 bits (e4m3) times a scale for each row along `dim`, as numbers again."""
    scale = values.abs().amax(dim=dim, keepdim=True).clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale


def _in_range(values: Tensor, most: int, *, dim: int) -> Tensor:
    """`values` in codes of 0 to `most` with a scale and a zero point for each range along `dim`, as numbers again."""
    low, high = values.amin(dim=dim, keepdim=True).clamp(max=0), values.amax(dim=dim, keepdim=True).clamp(min=0)
    scale = ((high - low) / most).clamp(min=1e-12)
    zero = (-low / scale).round()
    return ((values / scale).round() + zero).clamp(0, most).sub(zero) * scale


ROUNDED_INPUTS: Mapping[str, Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]] = {
    "Int8DynamicActivation": _round_inputs,
    "Int8Static": _round_inputs,
    "Float8DynamicActivation": _round_inputs_to_float8,
}
"""Schemes with activations of 8 bits, and how these are rounded."""
