"""Every rank holds the model and takes its share of each batch (DDP)."""

import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from costopt_trainer.heartbeat import HEARTBEAT
from costopt_trainer.models.chunked_loss import Use
from costopt_trainer.models.family import LayeredModel, moving_buffers
from costopt_trainer.storage.tensor_pieces import Shard
from costopt_trainer.training.parallel.mesh import Mesh
from costopt_trainer.training.parallel.shards import to_save
from costopt_trainer.training.parallel.strategy import Batch, GoOn, gradients_of
from costopt_trainer.training.precision import Autocast


class _Loss(nn.Module):
    """The model's loss as a module, since DDP takes part in nothing else."""

    def __init__(self, model: LayeredModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.model.loss_sum(inputs, targets)
        HEARTBEAT.beat()  # tells a rank that waits for gradients from one that has not come so far
        return loss


class DataParallel:
    """Every rank holds the model; gradients are summed while the backward pass still runs (DDP, arXiv 2006.15704).

    Batch-norm statistics stay each rank's own while training, where they are not read; rank 0's are the model's.
    """

    holds_loss = True
    gradients_are_split = False
    forward_needs_all_ranks = False

    def __init__(self, model: LayeredModel, mesh: Mesh, autocast: Autocast) -> None:
        """`model` has the same weights on all ranks."""
        # Not channels last, though convolutions like it: a fused AdamW pairs weights and moments by their place in
        # memory, and those of a checkpoint come back in the plain order. DDP's remark on it is of no use to a user.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        gang = mesh.gang
        self._autocast, self._mesh, self._gang = autocast, mesh, gang
        self.module: LayeredModel = model.to(gang.device)
        self._parameters = list(self.module.parameters())  # walking over modules takes a hundredth of a small step
        self.data_rank, self.data_size = gang.rank, gang.world_size
        self._loss: nn.Module = _Loss(self.module)
        self._ddp: DistributedDataParallel | None = None
        if gang.world_size > 1:
            self._ddp = DistributedDataParallel(self._loss, gradient_as_bucket_view=True)
            # Not before each forward pass. Set here, because the argument changed its name in torch 2.13.
            self._ddp.broadcast_buffers = False

    def accumulate_gradients(
        self, batches: Sequence[Batch], weight: float, scaler: GradScaler, go_on: GoOn = lambda: True
    ) -> Tensor | None:
        """As the protocol says. Ranks exchange gradients once, during the last micro-batch's backward pass."""
        total = torch.zeros((), dtype=torch.float64, device=self._gang.device)
        # DDP averages over ranks, but each rank's loss is already its part of the whole: undo the division.
        weight *= self.data_size
        for batch in batches[:-1]:
            if self._ddp is None:
                total += self._backward(batch, weight, scaler)
            else:
                with self._ddp.no_sync():
                    total += self._backward(batch, weight, scaler)
            if not go_on():
                return None
        return total + self._backward(batches[-1], weight, scaler)

    def _backward(self, batch: Batch, weight: float, scaler: GradScaler) -> Tensor:
        with self._autocast():
            loss: Tensor = (self._ddp or self._loss)(*batch)
        scaler.scale(loss * weight).backward()
        return loss.detach()

    def each_logits(self, inputs: Tensor, targets: Tensor, use: Use) -> None:
        """As the protocol says; each rank for itself."""
        with self._autocast():
            self.module.each_logits(inputs, targets, use)

    def gradient_norm(self) -> Tensor:
        """As the protocol says; all ranks hold the same gradients."""
        return nn.utils.get_total_norm(gradients_of(self._parameters))

    def share_buffers(self) -> None:
        """As the protocol says: rank 0's."""
        if self._gang.world_size > 1:
            for buffer in moving_buffers(self.module):
                dist.broadcast(buffer, src=0)

    def weights_changed(self) -> None:
        """As the protocol says: nothing is gathered."""

    def to_save(self, tensors: dict[str, Tensor]) -> dict[str, Tensor | Sequence[Shard]]:
        """As the protocol says: all of it, on rank 0."""
        return to_save({name: tensor for name, tensor in tensors.items() if name not in self.module.tied}, self._mesh)
