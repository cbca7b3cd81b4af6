"""Tensors that ranks share out (DTensor), and the boxes of a checkpoint that they are.

to_save      what this rank writes of its tensors: each element is written by one rank
Held         what this rank holds of a model, to be read from a checkpoint
local        the elements that a rank holds
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from costopt_trainer.models.family import LayeredModel
from costopt_trainer.storage.checkpoint_files import Region
from costopt_trainer.storage.tensor_pieces import Box, Shard
from costopt_trainer.training.parallel.mesh import Mesh


def local(tensor: Tensor) -> Tensor:
    """The elements that this rank holds; no copy, and no gradient flows back."""
    if not isinstance(tensor, DTensor):
        return tensor
    own: Tensor = DTensor.to_local(tensor.detach())  # type: ignore[arg-type]
    return own


def box_of(tensor: Tensor) -> Box:
    """Where this rank's elements lie in the whole tensor."""
    if not isinstance(tensor, DTensor):
        return Box.whole(tensor.shape)
    shape, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    # A rank without any element is told an offset behind the end.
    inside = (min(offset, extent) for offset, extent in zip(offsets, tensor.shape, strict=True))
    return Box(tuple(inside), tuple(shape))


def split_along(tensor: Tensor) -> tuple[str, ...]:
    """The degrees along which ranks hold other elements of it."""
    if not isinstance(tensor, DTensor):
        return ()
    names = tensor.device_mesh.mesh_dim_names or ()
    return tuple(name for name, placement in zip(names, tensor.placements, strict=True) if not placement.is_replicate())


def to_save(tensors: Mapping[str, Tensor], mesh: Mesh) -> dict[str, Tensor | Sequence[Shard]]:
    """What this rank writes of `tensors`: of copies, the first rank's."""
    saved: dict[str, Tensor | Sequence[Shard]] = {}
    for name, tensor in tensors.items():
        if not mesh.is_first(except_along=("pipeline", *split_along(tensor))):
            continue
        box = box_of(tensor)
        saved[name] = [Shard(local(tensor), box.offsets, tuple(tensor.shape))] if box.size or not tensor.numel() else []
    return saved


Read = Callable[[Callable[[str], bool], Region], Mapping[str, Tensor]]
"""Which tensors are wanted, and which region of each -> these regions, by name."""


class Held:
    """What this rank holds of a model, to be read from a checkpoint."""

    def __init__(self, module: LayeredModel) -> None:
        self._module = module
        self._state: dict[str, Tensor] = module.state_dict()
        self._stored = {name: module.tied.get(name, name) for name in self._state}
        """Name here -> name in the checkpoint, which holds a tied parameter once."""
        self._here: dict[str, str] = {stored: name for name, stored in self._stored.items()}

    def load_model(self, read: Read) -> None:
        """Fill parameters and buffers. Raises RuntimeError or ValueError for other names or shapes."""
        found = read(self._here.__contains__, self._region)
        filled = {
            name: self._shared_out(name, found[stored]) for name, stored in self._stored.items() if stored in found
        }
        self._module.load_state_dict(filled)

    def averages(self, read: Read) -> dict[str, Tensor]:
        """Averages of parameters and buffers by name, shared out as these are. Raises ValueError for other shapes."""
        found = read(self._here.__contains__, self._region)
        return {name: self._shared_out(name, found[stored]) for name, stored in self._stored.items() if stored in found}

    def optimizer_state(self, read: Read) -> dict[str, Tensor]:
        """The optimizer's tensors of the parameters held, by "<parameter>/<name>", shared out as these are."""
        found = read(lambda name: name.rpartition("/")[0] in self._here, self._region_of_state)
        kept = {}
        for full_name, elements in found.items():
            stored, _, key = full_name.rpartition("/")
            for name in (name for name, other in self._stored.items() if other == stored):
                kept[f"{name}/{key}"] = self._shared_out(name, elements)
        return kept

    def _region(self, stored: str, shape: tuple[int, ...]) -> Box:
        tensor = self._state[self._here[stored]]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{stored} is {shape} and not {tuple(tensor.shape)}")
        return box_of(tensor)

    def _region_of_state(self, stored: str, shape: tuple[int, ...]) -> Box:
        """What has the parameter's shape is shared out as it is, anything else is on every rank."""
        parameter = self._state[self._here[stored.rpartition("/")[0]]]
        return box_of(parameter) if tuple(parameter.shape) == shape else Box.whole(shape)

    def _shared_out(self, name: str, elements: Tensor) -> Tensor:
        """`elements`, which were read by the region of `name` or are on every rank, as this rank holds them."""
        tensor = self._state[name]
        if not isinstance(tensor, DTensor) or not elements.dim():
            return elements
        return DTensor.from_local(
            elements.to(local(tensor).device),
            tensor.device_mesh,
            tensor.placements,
            run_check=False,
            shape=tensor.shape,
            stride=tensor.stride(),
        )


def square_of_gradients(gradients: Sequence[Tensor], mesh: Mesh) -> Tensor:
    """Sum of squares of the gradients' elements, each counted once; 0-dim, the same on ranks that share them out."""
    by_split: dict[tuple[str, ...], list[Tensor]] = {}
    for gradient in gradients:
        by_split.setdefault(split_along(gradient), []).append(local(gradient))
    total = torch.zeros((), device=mesh.gang.device)
    for names, parts in sorted(by_split.items()):
        square = torch.nn.utils.get_total_norm(parts).square().to(mesh.gang.device)
        for name in names:
            torch.distributed.all_reduce(square, group=mesh.group(name))
        total += square
    return total
