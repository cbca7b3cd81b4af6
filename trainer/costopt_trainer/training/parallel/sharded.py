"""Ranks that share out weights, gradients and optimizer state (FSDP2), that split tensors, or both; no pipeline.

shard_states    FSDP2 of a module and its blocks, as settings and precision ask for
drop_gathered   has it gather weights anew
Sharded         the strategy
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel

from costopt.schema.parallelism import Parallelism
from costopt_trainer.models.chunked_loss import Use
from costopt_trainer.models.family import LayeredModel, moving_buffers
from costopt_trainer.storage.tensor_pieces import Shard
from costopt_trainer.training.parallel.mesh import Mesh
from costopt_trainer.training.parallel.shards import local, square_of_gradients, to_save
from costopt_trainer.training.parallel.strategy import Batch, GoOn, gradients_of
from costopt_trainer.training.parallel.tensor import split_tensors
from costopt_trainer.training.precision import Autocast, PrecisionName, compute_dtype


def shard_states(
    root: nn.Module,
    blocks: Sequence[nn.Module],
    mesh: Mesh,
    settings: Parallelism,
    precision: PrecisionName,
    *,
    reshard_after_forward: bool,
) -> None:
    """Share out the parameters of `root` in place: those of each block together, then the rest.

    Gradients are summed over ranks, not averaged. In half precision weights are gathered in it, and gradients reduced
    in float32; autocast decides what is computed in what, as without sharding.
    """
    dtype = compute_dtype(precision)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype and torch.float32, cast_forward_inputs=False)
    on_device = not settings.offload_to_cpu or mesh.gang.device.type == "cpu"
    for module in (*blocks, root):
        fully_shard(
            module,
            mesh=mesh.devices("dataParallel", "shard"),
            reshard_after_forward=reshard_after_forward,
            mp_policy=policy,
            offload_policy=OffloadPolicy() if on_device else CPUOffloadPolicy(),
        )
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def drop_gathered(root: nn.Module) -> None:
    """Drop gathered weights: the next forward pass gathers them anew. Nothing where none are shared out."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def sum_over_replicas(module: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Add up the gradients of ranks that hold the same parameters, all in one exchange; nothing if `group` is None."""
    gradients = [local(gradient) for gradient in gradients_of(module.parameters())]
    if group is None or not gradients:
        return
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together, group=group)
    parts = together.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


class Sharded:
    """The model of one replica on several ranks, each of which computes all layers.

    With `shard` each rank has its own samples, and gathers the weights of one block at a time (FSDP, arXiv 2304.11277);
    replicas of it reduce what is left to each (hybrid shard). With `tensor` ranks have the same samples and a part of
    each matrix.
    """

    gradients_are_split = True
    forward_needs_all_ranks = True

    def __init__(
        self, model: LayeredModel, mesh: Mesh, autocast: Autocast, settings: Parallelism, precision: PrecisionName
    ) -> None:
        self.data_rank, self.data_size = mesh.data_rank, mesh.data_size
        self.holds_loss = mesh.coordinates["tensor"] == 0
        self._mesh, self._autocast = mesh, autocast
        self._is_split = mesh.degrees["tensor"] > 1
        self._is_sharded = mesh.degrees["shard"] > 1
        if self._is_split:
            split_tensors(model, mesh.devices("tensor"), sequence=settings.sequence_parallel)
        if self._is_sharded:
            shard_states(
                model,
                model.blocks(),
                mesh,
                settings,
                precision,
                reshard_after_forward=settings.reshard_after_forward,
            )
            for method in ("loss_sum", "each_logits"):
                register_fsdp_forward_method(model, method)
        # Offloaded parameters stay where they are; buffers have been moved.
        self.module: LayeredModel = model if self._is_sharded else model.to(mesh.gang.device)

    def accumulate_gradients(
        self, batches: Sequence[Batch], weight: float, scaler: GradScaler, go_on: GoOn = lambda: True
    ) -> Tensor | None:
        """As the protocol says. Each micro-batch's gradients are reduced to what a rank holds: never all of them."""
        total = torch.zeros((), dtype=torch.float64, device=self._mesh.gang.device)
        for number, (inputs, targets) in enumerate(batches, start=1):
            last = number == len(batches)
            if isinstance(self.module, FSDPModule):
                self.module.set_requires_all_reduce(last)  # of hybrid shard, between replicas
                self.module.set_is_last_backward(last)
            with loss_parallel() if self._is_split else nullcontext():
                with self._autocast():
                    loss = self.module.loss_sum(inputs, targets)
                scaler.scale(loss * weight).backward()
            total += local(loss.detach())
            if not last and not go_on():
                return None
        _settle(self.module)
        if not self._is_sharded:
            sum_over_replicas(self.module, self._mesh.group("dataParallel"))
        return total if self.holds_loss else torch.zeros_like(total)

    def each_logits(self, inputs: Tensor, targets: Tensor, use: Use) -> None:
        """As the protocol says; all ranks must call it equally often."""

        def use_whole(logits: Tensor, their_targets: Tensor) -> None:
            whole = logits.full_tensor() if isinstance(logits, DTensor) else logits
            if self.holds_loss:
                use(whole, their_targets)

        with self._autocast():
            self.module.each_logits(inputs, targets, use_whole)

    def gradient_norm(self) -> Tensor:
        """As the protocol says."""
        return square_of_gradients(gradients_of(self.module.parameters()), self._mesh).sqrt()

    def share_buffers(self) -> None:
        """As the protocol says: those of the first rank."""
        broadcast_buffers(self.module, self._mesh)

    def weights_changed(self) -> None:
        """As the protocol says."""
        drop_gathered(self.module)

    def to_save(self, tensors: dict[str, Tensor]) -> dict[str, Tensor | Sequence[Shard]]:
        """As the protocol says."""
        return to_save({name: tensor for name, tensor in tensors.items() if name not in self.module.tied}, self._mesh)


def _settle(module: nn.Module) -> None:
    """Bring gradients that are still sums to be taken into the form of their parameters (norms, split by positions)."""
    for parameter in module.parameters():
        gradient = parameter.grad
        if isinstance(gradient, DTensor) and gradient.placements != (own := cast(DTensor, parameter)).placements:
            parameter.grad = gradient.redistribute(placements=own.placements)


def broadcast_buffers(module: nn.Module, mesh: Mesh) -> None:
    """Give ranks that hold the same layers the buffers of the first."""
    for name in ("dataParallel", "shard", "tensor"):
        group = mesh.group(name)
        if group is not None:
            for buffer in moving_buffers(module):
                dist.broadcast(local(buffer), group=group, group_src=0)
