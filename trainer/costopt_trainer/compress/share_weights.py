"""One set of weights in several places: the ShareWeights step.

share_layers    neighbouring layers become one, which is applied as often as they were many
share_values    each matrix keeps 2^bits different values

Layers: the mean of the neighbours, one right after another (immediate block-wise sharing, arXiv 2402.14905). A model
that was trained with other weights in each layer loses much by it, which a FineTune or Distill step behind it heals.

Values: the clusters of k-means in one dimension (Lloyd 1982), begun at equal distances between the smallest and the
largest weight, as Deep Compression does (Han et al., arXiv 1510.00149). Weights that are zero stay zero, with a value
of their own. The artifact has a codebook and packed indices (storage/codebooks.py); in memory weights are as large as
before.
"""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import torch
from torch import Tensor, nn

from costopt.schema.compression import ShareWeights
from costopt.schema.model_family import SharedLayers
from costopt.schema.replica import PhaseName
from costopt.schema.unions import settings_named, with_settings
from costopt_trainer.compress.step import StepRun
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.shape import ModelShape

MOST_ROUNDS = 200
"""Of k-means; it ends sooner when no weight changes its cluster."""


@torch.no_grad()
def share_layers(model: LayeredModel, times: int, shape: ModelShape | None) -> str:
    """Put one layer in place of each `times` neighbours of `model`, in place, and say what was done.

    `shape` is what the model was built from. Raises NotRetryable("InvalidSettings") for a model whose layers cannot be
    applied several times, cannot be parted so, or are not alike.
    """
    built_as = model.built_as or shape
    layers = [model.layers[str(number)] for number in range(model.num_layers)]
    if hasattr(model, "layer_repeats") and len(layers) % times:
        good = [number for number in range(2, len(layers) + 1) if len(layers) % number == 0]
        others = f", such as {', '.join(map(str, good))}, and not be {times}" if good else f", which {times} does not"
        raise _wrong(f"shareWeights.layers must divide the {len(layers)} layers of the model{others}")
    named = None if built_as is None else settings_named(built_as.settings)
    if built_as is None or not isinstance(named, SharedLayers):
        families = "DecoderLM, Encoder or LSTM"
        raise _wrong(f"shareWeights.layers needs a model of type {families}, whose layers can be applied several times")
    before = sum(parameter.numel() for parameter in model.parameters())
    groups = [layers[start : start + times] for start in range(0, len(layers), times)]
    for group in groups:
        _become_their_mean(group)
    repeats = times * (named.layer_repeats or 1)
    model.layers = nn.ModuleDict({str(number): group[0] for number, group in enumerate(groups)})
    model.num_layers, model.layer_numbers = len(groups), None  # an earlier step may have taken some
    setattr(model, "layer_repeats", repeats)  # noqa: B010  every such family has it, and says so by itself
    light = named.model_copy(update={named.layers_field: len(groups), "layer_repeats": repeats})
    model.built_as = replace(built_as, settings=with_settings(built_as.settings, light))
    after = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"ShareWeights layers {times}: {len(groups)} layers in place of {len(layers)}, each applied {repeats} times; "
        f"{after:,} of {before:,} weights remain"
    )


def _become_their_mean(group: Sequence[nn.Module]) -> None:
    """The first of `group` gets the mean of all tensors of all of them."""
    states = [layer.state_dict() for layer in group]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise _wrong("shareWeights.layers needs neighbouring layers of one size: an earlier step has made them differ")
    for name, tensor in states[0].items():
        tensor.copy_(torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype))


@torch.no_grad()
def share_values(model: LayeredModel, bits: int) -> str:
    """Give each matrix of `model`, in place, at most 2^bits different values, and say what was done."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    if not matrices:
        raise _wrong("shareWeights.clusterBits needs a model with matrices")
    lost = whole = 0.0
    for matrix in matrices:
        clustered = cluster(matrix, bits)
        lost += float((clustered.double() - matrix.double()).square().sum())
        whole += float(matrix.double().square().sum())
        matrix.copy_(clustered)
    error = 100 * (lost / whole) ** 0.5 if whole else 0.0
    return (
        f"ShareWeights {bits} bits: {len(matrices)} matrices have at most {2**bits} different values each, which "
        f"differ from the weights by {error:.3g} percent"
    )


def cluster(weights: Tensor, bits: int) -> Tensor:
    """`weights` with each replaced by the mean of its cluster, of which there are 2^bits, zero's own among them."""
    flat_N = weights.detach().flatten().double()
    is_zero_N = flat_N == 0
    others_M = flat_N[~is_zero_N]
    count = 2**bits - int(bool(is_zero_N.any()))
    if len(others_M.unique()) <= count:
        return weights.detach().clone()
    sorted_M, order_M = others_M.sort()
    sums_M1 = torch.cat([torch.zeros(1, dtype=torch.float64), sorted_M.cumsum(0)])
    centres_K = torch.linspace(float(sorted_M[0]), float(sorted_M[-1]), count, dtype=torch.float64)
    ends_K1 = _ends(sorted_M, centres_K)
    for _ in range(MOST_ROUNDS):
        sizes_K = ends_K1.diff()
        means_K = sums_M1[ends_K1].diff() / sizes_K.clamp(min=1)
        centres_K = torch.where(sizes_K > 0, means_K, centres_K)
        moved_K1 = _ends(sorted_M, centres_K)
        if torch.equal(moved_K1, ends_K1):
            break
        ends_K1 = moved_K1
    clustered_M = torch.empty_like(others_M)
    clustered_M[order_M] = centres_K.repeat_interleave(ends_K1.diff())
    flat_N[~is_zero_N] = clustered_M
    return flat_N.to(weights.dtype).view_as(weights)


def _ends(sorted_M: Tensor, centres_K: Tensor) -> Tensor:
    """Where each centre's cluster begins among the sorted weights, and, last, where the last one ends."""
    between = (centres_K[1:] + centres_K[:-1]) / 2
    edges = torch.searchsorted(sorted_M, between)
    return torch.cat([torch.tensor([0]), edges, torch.tensor([len(sorted_M)])])


def _wrong(what: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", what)


class ShareWeightsStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "SharingWeights"
    trains = False
    quality_drop_percent = Decimal(5)

    def changes_shapes(self, settings: ShareWeights) -> bool:
        return settings.layers is not None

    def wants_speed(self, _settings: ShareWeights) -> bool:
        return False

    def wants_compile(self, _settings: ShareWeights) -> bool:
        return False

    def apply(self, model: LayeredModel, settings: ShareWeights, run: StepRun) -> str:
        if settings.layers is not None:
            return share_layers(model, settings.layers, run.shape)
        return share_values(model, settings.cluster_bits or 8)


STEP = ShareWeightsStep()
