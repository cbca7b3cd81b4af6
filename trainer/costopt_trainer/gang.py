"""Who this rank is among the others, and the few things ranks tell each other.

join_gang    meet the other ranks, as the environment says
Gang         this rank's place; sums, broadcasts, and agreement on errors
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from costopt.schema.replica import EXIT_DONE
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase
from costopt_trainer.processors import usable_processors
from costopt_trainer.rank import leave_at_once

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another: a first rank may be tokenizing the data meanwhile. A rank that dies is noticed at
once all the same, by its launcher."""


@dataclass(frozen=True)
class Gang:
    """One rank's place among all ranks. With a world size of 1 nothing is sent and no process group exists."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over all ranks, in place; the same bits on every rank."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_integers(self, *values: int) -> list[int]:
        """Each value summed over all ranks, in one exchange between the hosts (gloo): no GPU waits for it."""
        if self.world_size == 1:
            return list(values)
        return [int(total) for total in self.sum(torch.tensor(values, dtype=torch.int64)).tolist()]

    def broadcast(self, value: T) -> T:
        """Rank 0's `value`, on all ranks."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's `value` in order of rank, on all ranks."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def agree(self, error: Exception | None) -> None:
        """Return if no rank met an error; else raise on all ranks, so that none waits for one that has left.

        The lowest rank's NotRetryable goes first; without one, the rank's own error, or RuntimeError on the others.
        """
        mistake = (error.reason, str(error)) if isinstance(error, NotRetryable) else None
        reports = self.gather(None if error is None else (mistake, f"{type(error).__name__}: {error}"))
        failed = [(rank, *report) for rank, report in enumerate(reports) if report is not None]
        for _, known, _ in failed:
            if known is not None:
                raise NotRetryable(*known) from error
        if error is not None:
            raise error
        if failed:
            raise RuntimeError(f"rank {failed[0][0]} failed: {failed[0][2]}")

    def leave(self) -> None:
        """End this process well, if it has met other ranks: nothing is left to do, and no destructor may hang."""
        if self.world_size > 1:
            leave_at_once(EXIT_DONE)


def join_gang() -> Gang:
    """Meet the other ranks as RANK, LOCAL_RANK, WORLD_SIZE and MASTER_* say; returns when all are there.

    GPUs talk NCCL, hosts gloo; both at once where there are GPUs, so that small talk between hosts stays off the GPU.
    Raises NotRetryable("InvalidSettings") if this machine has fewer GPUs than ranks.
    """
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(max(1, int(os.environ["OMP_NUM_THREADS"])))
    else:
        torch.set_num_threads(max(1, usable_processors() // ranks_here))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise NotRetryable(
                "InvalidSettings",
                f"processesPerNode must be at most {torch.cuda.device_count()}, the GPUs of this node, "
                f"but it has a local rank {local_rank}",
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if world_size > 1:
        with phase("MeetingRanks"):
            if device.type == "cuda":
                # Given its device, NCCL connects all ranks now; at the first exchange, a pipeline has only two of them.
                dist.init_process_group("cpu:gloo,cuda:nccl", timeout=COLLECTIVE_TIMEOUT, device_id=device)
            else:
                dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
    return Gang(rank, local_rank, world_size, device)
