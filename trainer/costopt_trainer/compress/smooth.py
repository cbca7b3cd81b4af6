"""SmoothQuant (Xiao et al., arXiv 2211.10438): what activations are large in, weights take over.

    smooth      norms and the linear layers that read them, in place; the model computes the same
    pairs_of    which these are, found by running the model

A few channels of what a norm gives are often many times larger than the others, and 8 bits for all of them leave
little for the others. Each channel of the norm is divided by a factor, by which the weights that it is multiplied with
grow: the same function with flatter activations. The factor of channel j is, with alpha from 0 to 1,

    max|X_j| ** alpha / max|W_j| ** (1 - alpha)      (equation 4 of the paper)

where X are the norm's outputs over training samples, and W the weights that they are multiplied with. torchao's
prototype multiplies activations as the model runs; here factors go into the norm, so that nothing is left of them to
store, export or compute.

Shape suffixes: C = channels of a norm, O = outputs of a linear layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from costopt_trainer.errors import NotRetryable

TOLERANCE = 1e-4
"""Most that the model's outputs may change by, of their norm: more than rounding in FP32 does, less than a mistake."""
SMALLEST = 1e-5
"""Of a range: a channel may be zero throughout."""


@dataclass(frozen=True)
class Pair:
    """A norm, and all that read it."""

    norm: nn.Module
    """With a weight (C,), and perhaps a bias."""
    readers: tuple[nn.Linear, ...]


@torch.no_grad()
def smooth(
    model: nn.Module, linears: Mapping[str, nn.Linear], alpha: float, example: Tensor, batches: Iterable[Tensor]
) -> str:
    """Smooth what `linears`, by name, read from norms, and say what was done. `model` is in eval mode on the CPU.

    `example` shows which layers read which norm, and that the model computes the same afterwards; `batches` how large
    activations become. Raises NotRetryable("InvalidSettings") if no norm is read by such layers alone.
    """
    found = pairs_of(model, linears.values(), example)
    ranges = _ranges(model, found, batches)
    kept = _smooth_where_same(model, found, [_factors(pair, ranges[pair.norm], alpha) for pair in found], example)
    if not kept:
        raise NotRetryable(
            "InvalidSettings",
            "quantize.smoothPercent must not be set for this model: it has no norm that linear layers alone read",
        )
    return f"activations of {kept} norms smoothed"


def pairs_of(model: nn.Module, linears: Iterable[nn.Linear], example: Tensor) -> list[Pair]:
    """Norms of `model` that some of `linears` read, and no other linear layer does; a layer has one norm."""
    wanted = set(linears)
    given: dict[tuple[int, int], nn.Module] = {}
    outputs, readers, hooks = [], dict[nn.Module, dict[nn.Linear, None]](), []

    def gave(norm: nn.Module, _arguments: object, output: Tensor) -> None:
        outputs.append(output)  # held, so that no other tensor lies there meanwhile
        given[output.data_ptr(), output.shape[-1]] = norm

    def reads(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        norm = given.get((arguments[0].data_ptr(), arguments[0].shape[-1]))
        if norm is not None and isinstance(layer, nn.Linear):
            readers.setdefault(norm, {})[layer] = None

    for module in model.modules():
        if _is_norm(module):
            hooks.append(module.register_forward_hook(gave))
        elif isinstance(module, nn.Linear):
            hooks.append(module.register_forward_pre_hook(reads))
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    several = {layer for layer in wanted if sum(layer in those for those in readers.values()) > 1}
    return [Pair(norm, tuple(those)) for norm, those in readers.items() if wanted - several >= those.keys()]


def _is_norm(module: nn.Module) -> bool:
    """Of any library: what it does is seen by whether the model computes the same afterwards."""
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("Norm") and isinstance(weight, nn.Parameter) and weight.ndim == 1


def _ranges(model: nn.Module, pairs: Sequence[Pair], batches: Iterable[Tensor]) -> dict[nn.Module, Tensor]:
    """The largest output of each norm, in each channel (C,), while `model` reads `batches`."""
    ranges = {pair.norm: torch.zeros_like(pair.readers[0].weight[0]) for pair in pairs}

    def seen(norm: nn.Module, _arguments: object, output: Tensor) -> None:
        ranges[norm] = torch.maximum(ranges[norm], output.detach().abs().flatten(0, -2).amax(0))

    hooks = [pair.norm.register_forward_hook(seen) for pair in pairs]
    try:
        for batch in batches:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def _factors(pair: Pair, range_C: Tensor, alpha: float) -> Tensor:
    weights_C = torch.stack([layer.weight.abs().amax(0) for layer in pair.readers]).amax(0)
    return range_C.clamp(min=SMALLEST) ** alpha / weights_C.clamp(min=SMALLEST) ** (1 - alpha)


def _smooth_where_same(model: nn.Module, pairs: Sequence[Pair], factors: Sequence[Tensor], example: Tensor) -> int:
    """Apply `factors` to those of `pairs` where the model computes the same with them; returns how many these are.

    It does not where something else reads the norm, such as a sum, or where the norm multiplies by something else than
    its weight. All are tried at once, then halves, so that most models need one pass more.
    """
    expected = model(example)

    def settle(first: int, last: int) -> int:
        if first == last:
            return 0
        before = {tensor: tensor.clone() for pair in pairs[first:last] for tensor in _tensors(pair)}
        for pair, factor_C in zip(pairs[first:last], factors[first:last], strict=True):
            _apply(pair, factor_C)
        if bool((model(example) - expected).norm() <= TOLERANCE * expected.norm()):
            return last - first
        for tensor, old in before.items():
            tensor.copy_(old)
        middle = (first + last) // 2
        return settle(first, middle) + settle(middle, last) if last - first > 1 else 0

    return settle(0, len(pairs))


def _tensors(pair: Pair) -> list[Tensor]:
    """What a factor changes: of the norm, then of the layers."""
    own = [pair.norm.weight, getattr(pair.norm, "bias", None)]
    return [tensor for tensor in (*own, *(layer.weight for layer in pair.readers)) if isinstance(tensor, Tensor)]


def _apply(pair: Pair, factor_C: Tensor) -> None:
    for layer in pair.readers:
        layer.weight.mul_(factor_C)
    for name, parameter in pair.norm.named_parameters(recurse=False):
        if name in ("weight", "bias"):
            parameter.div_(factor_C)
