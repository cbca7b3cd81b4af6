"""Where a rank stands among the degrees: one DeviceMesh, with a dimension for each degree greater than 1.

Ranks are numbered along DEGREES, the last one fastest: those that split tensors are neighbours, stages of a pipeline
are furthest apart.
"""

from collections.abc import Mapping
from math import prod

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from costopt.schema.degrees import DEGREES
from costopt_trainer.training.process_group import ProcessGroup


class Mesh:
    """A rank's coordinates, and the ranks that differ from it in one of them only."""

    def __init__(self, gang: ProcessGroup, degrees: Mapping[str, int]) -> None:
        """All ranks must make it at the same time. `degrees`: of every name in DEGREES; their product is all ranks."""
        self.gang = gang
        self.degrees = dict(degrees)
        self.coordinates: dict[str, int] = {}
        rest = gang.rank
        for name in reversed(DEGREES):
            rest, self.coordinates[name] = divmod(rest, degrees[name])
        dimensions = tuple(name for name in DEGREES if degrees[name] > 1)
        self._devices: DeviceMesh | None = None
        if dimensions:
            shape = tuple(degrees[name] for name in dimensions)
            self._devices = init_device_mesh(gang.device.type, shape, mesh_dim_names=dimensions)

    @property
    def data_size(self) -> int:
        """Number of equal shares of each batch."""
        return prod(degree for name, degree in self.degrees.items() if DEGREES[name] == "batch")

    @property
    def data_rank(self) -> int:
        """Which share of each batch this rank takes."""
        return self.coordinates["dataParallel"] * self.degrees["shard"] + self.coordinates["shard"]

    @property
    def random_rank(self) -> int:
        """Ranks of the same number must draw the same random numbers: those that split the tensors of one layer."""
        return self.gang.rank // self.degrees["tensor"]

    def group(self, name: str) -> dist.ProcessGroup | None:
        """The ranks along a degree; None if that is this rank alone."""
        return None if self._devices is None or self.degrees[name] == 1 else self._devices.get_group(name)

    def devices(self, *names: str) -> DeviceMesh:
        """The part of the mesh along the degrees of these names, of which at least one is greater than 1."""
        if self._devices is None:
            raise ValueError("a rank alone has no mesh")
        dimensions = tuple(name for name in names if self.degrees[name] > 1)
        return self._devices[dimensions]

    def is_first(self, *, except_along: tuple[str, ...] = ("pipeline",)) -> bool:
        """Whether this rank's coordinates are 0, but for these degrees."""
        return all(place == 0 for name, place in self.coordinates.items() if name not in except_along)
