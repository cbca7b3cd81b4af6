"""What structured pruning may remove from a model, and the removing.

Units       things of one sort in one place, such as the heads of a layer; each is there or not
Slice       an axis of a tensor, and which unit each of its indices belongs to
units_of    all units of a model: of its axes where it tells them, else found by tracing it
cut         removes units: every tensor of the model loses what belongs to them, tied ones once

Tracing is torch-pruning's (Fang et al., arXiv 2301.12900): it finds the layers that depend on a layer's channels.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from costopt.schema.compression import PrunedPart
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.axes import Axes, numbers_in, owners
from costopt_trainer.models.family import LayeredModel

STAYS = -1


@dataclass(frozen=True)
class Slice:
    """An axis of a parameter or buffer."""

    owner: nn.Module
    name: str
    dim: int
    unit_I: Tensor
    """The unit of each index along the axis, int64 on the CPU; STAYS: of none."""

    @property
    def tensor(self) -> Tensor:
        """The tensor as it is now."""
        tensor: Tensor = getattr(self.owner, self.name)
        return tensor

    @property
    def is_input(self) -> bool:
        """Whether the axis is what a layer reads."""
        return self.name == "weight" and self.dim == input_axis(self.owner)


@dataclass(frozen=True)
class Units:
    """Units of one sort in one place. Different places of a model have different units."""

    part: PrunedPart
    place: tuple[int, ...]
    """Numbers in the names of the parameters, the layer's first; () of the whole model."""
    count: int
    slices: tuple[Slice, ...]
    heads_each: int = 1
    """Query heads of a unit."""


def is_conv1d(layer: nn.Module) -> bool:
    """Whether it is the linear layer of the Hugging Face library whose matrix has inputs first (GPT-2)."""
    return type(layer).__name__ in ("Conv1D", "SparseConv1D") and type(layer).__module__.startswith("transformers.")


def is_matrix(layer: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution."""
    return isinstance(layer, nn.Linear | nn.Conv2d) or is_conv1d(layer)


def input_axis(layer: nn.Module) -> int | None:
    """The axis of a layer's weight that it reads; None if it is no linear layer and no convolution."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        return 1
    return 0 if is_conv1d(layer) else None


def units_of(model: LayeredModel, example: Tensor) -> list[Units]:
    """All units of `model`; none if nothing can be cut out of it. `example`: inputs to trace it with."""
    axes = model.axes()
    return _of_axes(model, axes) if axes is not None else _of_graph(model, example)


def _of_axes(model: LayeredModel, axes: Axes) -> list[Units]:
    found: dict[tuple[PrunedPart, tuple[int, ...]], list[Slice]] = defaultdict(list)
    for name, owner, own_name in owners(model):
        letters = axes.of(name) or ""
        for dim, letter in enumerate(letters):
            if letter == "-":
                continue
            part, block, copies = _meaning(letter, axes)
            size = getattr(owner, own_name).shape[dim] // copies
            unit_I = torch.arange(size).div(block, rounding_mode="floor").repeat(copies)
            place = () if part == "HiddenWidth" else numbers_in(name)
            found[part, place].append(Slice(owner, own_name, dim, unit_I))
    units = []
    for (part, place), slices in found.items():
        count = int(slices[0].unit_I.max()) + 1
        units.append(Units(part, place, count, tuple(slices), axes.heads_per_key if part == "Heads" else 1))
    return units


def _meaning(letter: str, axes: Axes) -> tuple[PrunedPart, int, int]:
    """Of an axis: what it has units of, how many indices a unit is, and how often all units come."""
    if letter in "DM":
        return ("HiddenWidth" if letter == "D" else "Channels"), 1, 1
    return "Heads", axes.head_dim * (axes.heads_per_key if letter == "N" else 1), 3 if letter == "A" else 1


def _of_graph(model: LayeredModel, example: Tensor) -> list[Units]:
    parts = list(model.prunable())
    if not parts:
        return []
    model.eval()  # tracing must neither drop activations nor move batch norm's averages
    model.requires_grad_(True)  # dependencies come from the autograd graph
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    units = []
    for number, part in enumerate(parts):
        remove_output = graph.get_pruner_of_module(part.layer).prune_out_channels
        group = graph.get_pruning_group(part.layer, remove_output, list(range(part.channels)))
        slices = []
        for item in group:
            module, is_output = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
            for name, dim in _axes_in_graph(module, is_output=is_output):
                unit_I = torch.full((getattr(module, name).shape[dim],), STAYS)
                unit_I[torch.tensor(item.idxs)] = torch.tensor(item.root_idxs)
                slices.append(Slice(module, name, dim, unit_I))
        units.append(Units("Channels", (number,), part.channels, tuple(slices)))
    return units


def _axes_in_graph(module: nn.Module, *, is_output: bool) -> Iterator[tuple[str, int]]:
    """The axes that lose a channel if `module` loses an output, or an input. None in operations without weights."""
    if is_matrix(module):
        yield "weight", 0 if is_output else 1
        if is_output and module.bias is not None:
            yield "bias", 0
    elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.RMSNorm):
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(module, name, None) is not None:
                yield name, 0
    elif any(True for _ in module.parameters()):
        raise NotImplementedError(f"a {type(module).__name__} cannot be made narrower yet")


def kept_counts(units: Sequence[Units], gone: Mapping[int, Sequence[int]]) -> list[int]:
    """How many of each of `units` stay if `gone`, by their place in `units`, go."""
    return [one.count - len(gone.get(number, ())) for number, one in enumerate(units)]


def shapes_after(model: nn.Module, units: Sequence[Units], kept: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors, under each name, if so many of each of `units` stay."""
    sizes: dict[tuple[int, str], list[int]] = {}
    for one, count in zip(units, kept, strict=True):
        for part in one.slices:
            shape = sizes.setdefault((id(part.owner), part.name), list(part.tensor.shape))
            stays = int((part.unit_I == STAYS).sum())
            shape[part.dim] = stays + (shape[part.dim] - stays) // one.count * count
    return {name: tuple(sizes.get((id(owner), own), getattr(owner, own).shape)) for name, owner, own in owners(model)}


def cut(model: nn.Module, units: Sequence[Units], gone: Mapping[int, Sequence[int]]) -> None:
    """Remove units `gone`: place in `units` -> numbers.

    Raises NotRetryable("InvalidSettings"), before anything is changed, if a tensor is shared by layers of which not all
    lose the same.
    """
    kept: dict[tuple[int, str], dict[int, Tensor]] = defaultdict(dict)
    for number, lost in gone.items():
        for part in units[number].slices:
            index = (~torch.isin(part.unit_I, torch.tensor(list(lost), dtype=torch.int64))).nonzero().flatten()
            before = kept[id(part.owner), part.name].setdefault(part.dim, index)
            if not torch.equal(before, index):  # the layer is in the model more than once
                raise _parted(f"{type(part.owner).__name__}.{part.name}", "itself in another place")
    by_tensor: dict[int, list[tuple[str, nn.Module, str]]] = defaultdict(list)
    for name, owner, own in owners(model):
        by_tensor[id(getattr(owner, own))].append((name, owner, own))
    for same in by_tensor.values():
        _refuse_parting(same, kept)
    with torch.no_grad():
        for same in by_tensor.values():
            _, owner, own = same[0]
            if (id(owner), own) in kept:
                _replace(same, kept[id(owner), own])


def _refuse_parting(same: list[tuple[str, nn.Module, str]], kept: Mapping[tuple[int, str], dict[int, Tensor]]) -> None:
    first_name, owner, own = same[0]
    first = kept.get((id(owner), own), {})
    for name, other, other_own in same[1:]:
        second = kept.get((id(other), other_own), {})
        if first.keys() != second.keys() or any(not torch.equal(first[dim], second[dim]) for dim in first):
            raise _parted(first_name, name)


def _parted(first: str, second: str) -> NotRetryable:
    return NotRetryable(
        "InvalidSettings",
        f"prune.structure must be Unstructured for this model: {first} is one tensor with {second}, and the two would "
        "lose different parts of it",
    )


def _replace(same: list[tuple[str, nn.Module, str]], kept: Mapping[int, Tensor]) -> None:
    """Put what stays of a tensor in its place, under all of its names."""
    _, owner, own = same[0]
    before: Tensor = getattr(owner, own)
    after = before
    for dim, index in kept.items():
        after = after.index_select(dim, index.to(after.device))
    if isinstance(before, nn.Parameter):
        after = nn.Parameter(after, requires_grad=before.requires_grad)
    for _, module, name in same:
        setattr(module, name, after)
        _tell_shape(module)


def _tell_shape(module: Any) -> None:
    """Make the numbers in a layer those of its tensors."""
    shape = tuple(module.weight.shape) if isinstance(getattr(module, "weight", None), Tensor) else ()
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = shape[:2]
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, nn.BatchNorm2d):
        [module.num_features] = shape
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = shape
    elif is_conv1d(module):
        module.nx, module.nf = shape
