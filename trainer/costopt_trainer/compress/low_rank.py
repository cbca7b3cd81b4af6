"""Two small matrices in place of a large one: the LowRank step.

factorise          all linear layers of the layers of a model, in place
second_moments     of the inputs of linear layers, over some batches
best_factors       of one matrix

The matrix W (out, in) becomes U Ut W, where the columns of U are the first eigenvectors of W S Wt, and S is the second
moment of the layer's inputs over samples that the model was trained on: of all matrices of that rank this one changes
the layer's outputs least, in squares and over these samples. It is the same matrix as SVD-LLM's truncated product after
whitening (arXiv 2403.12403), and what ASVD (arXiv 2312.05821) comes near to by scaling channels. It is computed without
an inverse of S, which may have none (arXiv 2305.19972 takes outputs apart in this way). Without samples S is the
identity, and the product is the truncated SVD.

Saved and loaded as a model whose settings had a `rank` from the beginning: see models/factors.py.

Shape suffixes: I = inputs, O = outputs, R = rank, N = positions of a batch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from costopt.schema.compression import LowRank
from costopt.schema.replica import PhaseName
from costopt_trainer.compress.step import StepRun
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.factors import put_in_place
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.light import LowRankLinear
from costopt_trainer.models.whole import WholeModel


@dataclass(frozen=True)
class Factors:
    """Two matrices whose product is near another."""

    down_RI: Tensor
    up_OR: Tensor
    kept: float
    """The share of the squared outputs that they give, 0 to 1."""


def factorise(model: LayeredModel, settings: LowRank, batches: Iterable[Tensor]) -> str:
    """Put factors in place of matrices of `model`, which is in eval mode, and say what was done.

    `batches` are inputs of the model. Raises NotRetryable("InvalidSettings") if no matrix becomes smaller, and for a
    model that other tools read.
    """
    if isinstance(model, WholeModel):
        raise NotRetryable(
            "InvalidSettings",
            f"a LowRank step must be of a model of a family of costopt, not of {model.called}, which has no place for "
            "two factors of a matrix: have it trained with fewer or narrower layers",
        )
    layers = dict(linear_layers(model))
    if not layers:
        raise NotRetryable("InvalidSettings", "a LowRank step needs a model with linear layers in its layers")
    moments = second_moments(model, layers, batches) if settings.calibration_samples else {}
    before = after = 0
    kept = []
    for name, layer in layers.items():
        outputs, inputs = layer.weight.shape
        factors = best_factors(layer.weight.detach(), moments.get(name), settings)
        rank = len(factors.down_RI)
        before += inputs * outputs
        if rank * (inputs + outputs) >= inputs * outputs:
            after += inputs * outputs
            continue
        after += rank * (inputs + outputs)
        kept.append(factors.kept)
        _put(model, name, layer, factors)
    if not kept:
        raise NotRetryable("InvalidSettings", _nothing(settings))
    setting = f"{settings.percent} percent less" if settings.percent else f"energy of {settings.energy_percent} percent"
    return (
        f"LowRank {setting}: {len(kept)} of {len(layers)} matrices are products of two, {after:,} of their {before:,} "
        f"weights remain; they keep {100 * min(kept):.1f} to {100 * max(kept):.1f} percent of their squared outputs"
    )


def linear_layers(model: LayeredModel) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers in the layers of `model` by name, without factors; embeddings and head stay whole."""
    factors = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    apart = {id(part) for module in factors for part in (module.down, module.up)}
    for name, module in model.layers.named_modules(prefix="layers"):
        if isinstance(module, nn.Linear) and id(module) not in apart:
            yield name, module


@torch.no_grad()
def second_moments(model: nn.Module, layers: Mapping[str, nn.Linear], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The sum of x xt over all inputs x of each layer, float64 (I, I), while `model` reads `batches`."""
    moments = {
        name: torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64) for name, layer in layers.items()
    }

    def watch(name: str) -> RemovableHandle:
        def seen(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x_NI = arguments[0].flatten(0, -2).float()
            moments[name] += (x_NI.T @ x_NI).double()

        return layers[name].register_forward_pre_hook(seen)

    hooks = [watch(name) for name in layers]
    try:
        for batch in batches:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def best_factors(weight_OI: Tensor, moment_II: Tensor | None, settings: LowRank) -> Factors:
    """The product of the rank that `settings` ask for whose outputs are nearest to the matrix's."""
    weight_OI = weight_OI.double()
    outputs, inputs = weight_OI.shape
    if moment_II is None or not bool(moment_II.any()):
        moment_II = torch.eye(inputs, dtype=torch.float64)
    energies_O, vectors_OO = torch.linalg.eigh(weight_OI @ moment_II @ weight_OI.T)
    energies_O, vectors_OO = energies_O.flip(0).clamp(min=0), vectors_OO.flip(1)
    shares_O = energies_O.cumsum(0) / energies_O.sum().clamp(min=torch.finfo(torch.float64).tiny)
    if settings.percent is not None:
        rank = max((100 - settings.percent) * inputs * outputs // (100 * (inputs + outputs)), 1)
    else:
        wanted = Decimal(settings.energy_percent or 100) / 100
        rank = int((shares_O < float(wanted)).sum()) + 1
    rank = min(rank, outputs, inputs)
    up_OR = vectors_OO[:, :rank]
    return Factors(up_OR.T @ weight_OI, up_OR, float(shares_O[rank - 1]))


@torch.no_grad()
def _put(model: LayeredModel, name: str, layer: nn.Linear, factors: Factors) -> None:
    with torch.random.fork_rng(devices=[]):  # fresh layers draw weights, which are not wanted
        placed = put_in_place(model, name, len(factors.down_RI)).to(layer.weight.dtype).eval()
    placed.down.weight.copy_(factors.down_RI)
    placed.up.weight.copy_(factors.up_OR)
    if layer.bias is not None:
        placed.up.bias.copy_(layer.bias)


def _nothing(settings: LowRank) -> str:
    if settings.percent is not None:
        return f"lowRank.percent must be larger than {settings.percent}: no matrix of this model gets smaller by it"
    return (
        f"lowRank.energyPercent must be smaller than {settings.energy_percent}: no matrix of this model gets smaller "
        "where its factors keep so much"
    )


def calibration_batches(run: StepRun, samples: int) -> Iterator[Tensor]:
    """Inputs of `samples` training samples, evenly spread, the same each time; without data the example."""
    if run.data is None or run.recipe is None:
        yield run.example
        return
    of = run.data.num_train_samples
    count = min(samples, of)
    numbers = np.arange(count, dtype=np.int64) * of // count
    size = run.recipe.batch.micro_batch_size
    for start in range(0, count, size):
        inputs, _ = run.data.train_batch(numbers[start : start + size])
        yield inputs.to(run.example.device)
        run.pieces.done(start + size, 2 * count)


class LowRankStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "Factorizing"
    trains = False
    quality_drop_percent = Decimal(5)

    def changes_shapes(self, _settings: LowRank) -> bool:
        return True

    def wants_speed(self, _settings: LowRank) -> bool:
        return True

    def wants_compile(self, _settings: LowRank) -> bool:
        return False

    def apply(self, model: LayeredModel, settings: LowRank, run: StepRun) -> str:
        return factorise(model.eval(), settings, calibration_batches(run, settings.calibration_samples))


STEP = LowRankStep()
