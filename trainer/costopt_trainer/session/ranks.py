"""This rank's place among all, and what ranks exchange if the program has made a process group of torch's.

Ranks         the place, as the launcher (or torchrun) has said
TorchRanks    sums over torch's process group

torch is never imported here for a program that does not use it: it is looked up among the modules that are there.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any


class Ranks:
    """A process' place among all. Without a launcher it is alone."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.rank = int(environment.get("RANK") or 0)
        self.local_rank = int(environment.get("LOCAL_RANK") or 0)
        self.world_size = int(environment.get("WORLD_SIZE") or 1)

    def get_rank(self) -> int:
        """This process' number among all, from 0."""
        return self.rank

    def get_local_rank(self) -> int:
        """Its number on its node, from 0."""
        return self.local_rank

    def get_world_size(self) -> int:
        """How many there are in all."""
        return self.world_size

    def device(self) -> str:
        """The device of this rank as torch names it: "cuda:0" for the first of a node with GPUs, else "cpu".

        Raises RuntimeError if the node has fewer GPUs than ranks.
        """
        try:
            torch = importlib.import_module("torch")
        except ImportError:
            return "cpu"
        if not torch.cuda.is_available():
            return "cpu"
        if self.local_rank >= torch.cuda.device_count():
            raise RuntimeError(
                f"processesPerNode must be at most {torch.cuda.device_count()}, the GPUs of this node, "
                f"but it has a local rank {self.local_rank}"
            )
        return f"cuda:{self.local_rank}"

    def others(self) -> "TorchRanks | None":
        """The process group that the program has made of two or more ranks; None: it has made none (yet)."""
        dist = sys.modules.get("torch.distributed")
        if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return None
        return TorchRanks(dist)

    def wait_for_all(self) -> None:
        """Return once all ranks have called it."""
        others = self.others()
        if others is not None:
            others.sum_integers(0)


class TorchRanks:
    """The ranks of torch's default process group."""

    def __init__(self, dist: Any) -> None:
        self._dist = dist
        self.rank: int = dist.get_rank()
        self.world_size: int = dist.get_world_size()

    def sum_integers(self, *values: int) -> list[int]:
        """Each value summed over all ranks: between the hosts if there is gloo, else on the devices."""
        torch = sys.modules["torch"]
        by_hosts = "cpu:" in self._dist.get_backend_config() or self._dist.get_backend() == "gloo"
        device = "cpu" if by_hosts else torch.cuda.current_device()
        tensor = torch.tensor(values, dtype=torch.int64, device=device)
        self._dist.all_reduce(tensor)
        return [int(total) for total in tensor.tolist()]
