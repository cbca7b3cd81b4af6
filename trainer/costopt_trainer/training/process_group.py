"""This rank's place among the others, and the few things that ranks exchange.

join_process_group    join the other ranks, as the environment says
ProcessGroup         this rank's place; sums, broadcasts, and agreement on errors
ALONE                that of a process without others

Ranks exchange tensors, or JSON in tensors. torch's own object collectives unpickle what they receive, which would run
the code of anybody who can reach a rank's port: neither torch's store nor gloo authenticates peers.
"""

import json
import os
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from costopt.hostile import parse_json
from costopt.schema.replica import EXIT_DONE, FailureReason
from costopt_trainer.cgroup import usable_processors
from costopt_trainer.errors import NotRetryable, Retryable
from costopt_trainer.phases import phase
from costopt_trainer.shutdown import leave_at_once

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another: the first rank may be tokenizing the data meanwhile. If a rank dies, its launcher
notices at once anyway."""

MAX_MESSAGE_BYTES = 2**22
"""Longest JSON that a rank sends to all at once, and longest part of what it sends to the first only."""
MAX_GATHERED_BYTES = 2**26
"""Longest JSON that a rank sends to the first: the records of a checkpoint's three hundred thousand pieces."""
MAX_SENTENCE = 10_000
"""Characters of an error that other ranks get."""


@dataclass(frozen=True)
class ProcessGroup:
    """One rank's place among all. With a world size of 1 nothing is sent and no process group exists."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    group: Any = None
    """torch's group of these ranks; None: the default one."""

    def apart(self) -> "ProcessGroup":
        """The same ranks with connections (gloo) of their own, for another thread. All ranks must call it together."""
        if self.world_size == 1:
            return self
        return replace(self, group=dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT))

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over all ranks, in place; the same bits on every rank."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def sum_integers(self, *values: int) -> list[int]:
        """Each value summed over all ranks, in one exchange between the hosts (gloo): no GPU waits for it."""
        if self.world_size == 1:
            return list(values)
        return [int(total) for total in self.sum(torch.tensor(values, dtype=torch.int64)).tolist()]

    def broadcast(self, value: T) -> T:
        """Rank 0's `value`, JSON data, on all ranks. Tuples become lists, also on rank 0 if there are others."""
        if self.world_size == 1:
            return value
        content = _to_bytes(value) if self.rank == 0 else b""
        length = _checked(self._broadcast(torch.tensor([len(content)])).tolist()[0])
        tensor = _to_tensor(content, length) if self.rank == 0 else torch.empty(length, dtype=torch.uint8)
        received: T = parse_json(self._broadcast(tensor).numpy().tobytes())
        return received

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, JSON data, in rank order, on all ranks. Tuples become lists, as in `broadcast`."""
        if self.world_size == 1:
            return [value]
        content = _to_bytes(value)
        lengths = [_checked(length) for length in self._all_gather(torch.tensor([len(content)])).flatten().tolist()]
        contents = self._all_gather(_to_tensor(content, max(lengths)))
        return [parse_json(row[:length].numpy().tobytes()) for row, length in zip(contents, lengths, strict=True)]

    def gather_on_first(self, value: T) -> list[T]:
        """Every rank's `value`, JSON data, in rank order, on rank 0; nothing on the others. Tuples become lists.

        For what grows with the model: no rank but the first receives or keeps it, and one after another, in parts.
        """
        if self.world_size == 1:
            return [value]
        content = _to_bytes(value)
        if self.rank > 0:
            dist.send(torch.tensor([len(content)]), dst=0, group=self.group)
            for part in _to_tensor(content, len(content)).split(MAX_MESSAGE_BYTES):
                dist.send(part, dst=0, group=self.group)
            return []
        values: list[T] = [parse_json(content, max_bytes=MAX_GATHERED_BYTES)]
        for rank in range(1, self.world_size):
            length = torch.empty(1, dtype=torch.int64)
            dist.recv(length, src=rank, group=self.group)
            received = torch.empty(_checked(int(length), MAX_GATHERED_BYTES), dtype=torch.uint8)
            for part in received.split(MAX_MESSAGE_BYTES):
                dist.recv(part, src=rank, group=self.group)
            values.append(parse_json(received.numpy().tobytes(), max_bytes=MAX_GATHERED_BYTES))
        return values

    def _broadcast(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, src=0, group=self.group)
        return tensor

    def _all_gather(self, tensor: Tensor) -> Tensor:
        """Every rank's `tensor`, all of equal shape, as rows."""
        rows = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(rows, tensor, group=self.group)
        return torch.stack(rows)

    def agree(self, error: Exception | None) -> None:
        """Return if no rank had an error; else raise on all ranks, so that none waits for one that has left.

        The lowest rank's NotRetryable has priority, then the lowest's Retryable; without one, the rank's own error, or
        RuntimeError on the others.
        """
        report: Any = None
        if error is not None:
            reason = error.reason if isinstance(error, NotRetryable | Retryable) else None
            text = str(error) if reason else f"{type(error).__name__}: {error}"
            kind = type(error).__name__ if reason else ""
            report = [kind, reason, text[:MAX_SENTENCE].encode("utf-8", "replace").decode()]
        failed = [(rank, *report) for rank, report in enumerate(self.gather(report)) if report is not None]
        for raised in (NotRetryable, Retryable):
            for _, kind, reason, sentence in failed:
                if kind == raised.__name__ and reason in get_args(FailureReason):
                    raise raised(reason, sentence) from error
        if error is not None:
            raise error
        if failed:
            raise RuntimeError(f"rank {failed[0][0]} failed: {failed[0][3]}")

    def leave(self) -> None:
        """Exit this process with 0 if it has joined other ranks: no work is left, and no destructor may hang."""
        if self.world_size > 1:
            leave_at_once(EXIT_DONE)


ALONE = ProcessGroup(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))
"""A process without others, on the CPU."""


def join_process_group() -> ProcessGroup:
    """Join the other ranks as RANK, LOCAL_RANK, WORLD_SIZE and MASTER_* say; returns when all have joined.

    GPUs use NCCL, hosts gloo; with GPUs both, so that small messages between hosts stay off the GPU.
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
                # With its device given, NCCL connects all ranks now; a pipeline's first exchange has only two of them.
                dist.init_process_group("cpu:gloo,cuda:nccl", timeout=COLLECTIVE_TIMEOUT, device_id=device)
            else:
                dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
    return ProcessGroup(rank, local_rank, world_size, device)


def _to_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _to_tensor(content: bytes, length: int) -> Tensor:
    """uint8 (length,): the bytes, then zeros."""
    return torch.frombuffer(bytearray(content.ljust(length, b"\0")), dtype=torch.uint8)


def _checked(length: int, most: int = MAX_MESSAGE_BYTES) -> int:
    """A length sent by another rank, checked before memory is allocated."""
    if not 0 < length <= most:
        raise RuntimeError(f"a rank must tell at most {most} bytes at once, but announced {length}")
    return length
