"""Every rank holds the model and takes its share of each batch (DDP)."""

import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from costopt_trainer.models.loss import loss_sum
from costopt_trainer.training.parallel.strategy import Batch, GoOn, norm_of_gradients
from costopt_trainer.training.precision import Autocast
from costopt_trainer.training.process_group import ProcessGroup


class DataParallel:
    """Every rank holds the model; gradients are summed while the backward pass still runs (DDP).

    Batch-norm statistics stay each rank's own while training, where they are not read; rank 0's are the model's.
    """

    saves_module: bool
    holds_loss = True
    gradients_are_split = False

    def __init__(self, model: nn.Module, gang: ProcessGroup, autocast: Autocast) -> None:
        # Not channels last, though convolutions like it: a fused AdamW pairs weights and moments by their place in
        # memory, and those of a checkpoint come back in the plain order. DDP's remark on it is of no use to a user.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        self.module = model.to(gang.device)
        self.data_rank, self.data_size = gang.rank, gang.world_size
        self.saves_module = gang.rank == 0
        self._gang, self._autocast = gang, autocast
        self._ddp: DistributedDataParallel | None = None
        if gang.world_size > 1:
            self._ddp = DistributedDataParallel(self.module, gradient_as_bucket_view=True)
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
        inputs, targets = batch
        with self._autocast():
            logits = (self._ddp or self.module)(inputs)
        loss = loss_sum(logits, targets)
        scaler.scale(loss * weight).backward()
        return loss.detach()

    def forward(self, inputs: Tensor) -> Tensor | None:
        """As the protocol says; each rank for itself."""
        with self._autocast():
            return self.module(inputs)

    def gradient_norm(self) -> Tensor:
        """As the protocol says; all ranks hold the same gradients."""
        return norm_of_gradients(self.module)

    def share_buffers(self) -> None:
        """As the protocol says: rank 0's."""
        if self._gang.world_size > 1:
            for buffer in self.module.buffers():
                dist.broadcast(buffer, src=0)
