"""How the ranks of a gang share a batch, or a model.

    DataParallel    every rank holds the model and takes its share of each batch (DDP)
    ModelParallel   every rank holds some layers; micro-batches pass through the pipeline
    rehearse        a pass that does not count, before the first that does

Both strategies do the same to the loop: `accumulate_gradients` leaves in `.grad` the gradient of the sum of token
losses times the weight given, as if one process had seen the whole batch; `forward` runs the whole model.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

from costopt_trainer.models import ConvNet, DecoderLM, loss_sum
from costopt_trainer.training.precision import Autocast
from costopt_trainer.training.process_group import ProcessGroup

Batch = tuple[Tensor, Tensor]
"""Inputs and targets of one micro-batch."""


GoOn = Callable[[], bool]


class Strategy(Protocol):
    """What the loop asks of either way to share the work."""

    module: nn.Module
    """What this rank holds of the model, under the names of the whole model."""
    data_rank: int
    """Which share of each batch this rank takes, of `data_size` equal shares."""
    data_size: int
    holds_loss: bool
    """True on a rank whose share of the loss counts."""
    saves_module: bool
    """True on a rank whose part of the model goes into checkpoints."""

    def accumulate_gradients(
        self, batches: Sequence[Batch], weight: float, scaler: GradScaler, go_on: GoOn = lambda: True
    ) -> Tensor | None:
        """Add to `.grad` the gradient of the global batch's sum of token losses times `weight`, scaled by `scaler`.

        Returns this rank's sum of token losses, float64 on its device, without waiting for it. `go_on` is asked between
        micro-batches, if they come one by one; if it says no, on all ranks at once, the answer is None and `.grad` is
        of no use.
        """

    def forward(self, inputs: Tensor) -> Tensor | None:
        """The whole model's logits for `inputs`; None on a rank that does not hold its end."""

    def gradient_norm(self) -> Tensor:
        """L2 norm of the whole model's gradient, 0-dim, the same on all ranks."""

    def share_buffers(self) -> None:
        """Give all ranks the same buffers, before these are evaluated."""


class DataParallel:
    """Every rank holds the model; gradients are summed while the backward pass still runs (DDP).

    Batch-norm statistics stay each rank's own while training, where they are not read; rank 0's are the model's.
    """

    saves_module: bool
    holds_loss = True

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


class _Piece(nn.Module):
    """Some layers, computed in the training's precision: the pipeline calls them itself."""

    def __init__(self, layers: nn.Module, autocast: Autocast) -> None:
        super().__init__()
        self.layers = layers
        self.autocast = autocast

    def forward(self, x: Tensor) -> Tensor:
        with self.autocast():
            # Convolutions give their channels last, but ranks send each other dense tensors only.
            return self.layers(x).contiguous()


class ModelParallel:
    """Every rank holds a run of layers; micro-batches go forward and gradients backward from rank to rank.

    GPipe (arXiv 1811.06965) runs all forward passes, then all backward passes; OneFOneB (PipeDream, arXiv 1806.03377)
    starts each backward pass as soon as it can, and so holds the activations of fewer micro-batches.
    """

    saves_module = True
    data_rank, data_size = 0, 1

    def __init__(
        self,
        model: DecoderLM | ConvNet,
        gang: ProcessGroup,
        autocast: Autocast,
        schedule: Literal["GPipe", "OneFOneB"],
        num_micro_batches: int,
    ) -> None:
        first = model.num_layers * gang.rank // gang.world_size
        last = model.num_layers * (gang.rank + 1) // gang.world_size
        # Cut on the host, so that a device never holds more than its own layers.
        self.module = model.keep_layers(first, last).to(gang.device)
        self.holds_loss = self._is_last = gang.rank == gang.world_size - 1
        self._gang = gang
        self._piece = _Piece(self.module, autocast)
        # 1F1B needs a micro-batch for every rank to be at work on; with fewer, GPipe holds no more of them either.
        self._fills = schedule == "OneFOneB" and num_micro_batches >= gang.world_size
        self._num_micro_batches = num_micro_batches
        self._schedule: Schedule1F1B | ScheduleGPipe | None = None  # needs to see a micro-batch first
        self._weight: float = 1.0
        self._scaler = GradScaler(gang.device.type, enabled=False)
        self._total = torch.zeros((), dtype=torch.float64, device=gang.device)

    def _make_schedule(self, inputs: Tensor) -> Schedule1F1B | ScheduleGPipe:
        """torch's pipeline for micro-batches like `inputs`; all ranks must call it with the same.

        It is told the shapes that pass from rank to rank, which a pass forward shows. Left to itself it exchanges them
        as pickles, and runs the layers on uninitialised memory, which poisons batch-norm statistics.
        """
        was_training = self.module.training
        self.module.eval()  # so that no random number is drawn
        with torch.no_grad():
            entering, leaving = self._pass_on(inputs)
        self.module.train(was_training)
        stage = PipelineStage(
            self._piece,
            self._gang.rank,
            self._gang.world_size,
            self._gang.device,
            # Gradients go back through whatever passes between ranks, but not into the data.
            input_args=torch.empty_like(entering, device="meta", requires_grad=self._gang.rank > 0),
            output_args=torch.empty_like(leaving, device="meta", requires_grad=True),
        )
        make_schedule = Schedule1F1B if self._fills else ScheduleGPipe
        return make_schedule(stage, self._num_micro_batches, loss_fn=self._weighted_loss, scale_grads=False)

    def _weighted_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = loss_sum(logits, targets)
        self._total += loss.detach()
        return self._scaler.scale(loss * self._weight)

    def accumulate_gradients(
        self,
        batches: Sequence[Batch],
        weight: float,
        scaler: GradScaler,
        go_on: GoOn = lambda: True,  # noqa: ARG002
    ) -> Tensor | None:
        """As the protocol says; `batches` is the whole global batch on every rank, and torch's pipeline one call."""
        if self._schedule is None:
            self._schedule = self._make_schedule(batches[0][0])
        self._weight, self._scaler = weight, scaler
        self._total = torch.zeros_like(self._total)
        scaler.scale(self._total)  # sets it up, on the ranks that see no loss too
        inputs = (torch.cat([inputs for inputs, _ in batches]),) if self._gang.rank == 0 else ()
        targets = torch.cat([targets for _, targets in batches]) if self._is_last else None
        # The pipeline cuts the batch into the same micro-batches again: all are of one size.
        self._schedule.step(*inputs, target=targets, return_outputs=False)
        return self._total

    def forward(self, inputs: Tensor) -> Tensor | None:
        """As the protocol says; all ranks must call it with the same inputs. Any batch size will do."""
        _, outputs = self._pass_on(inputs)
        return outputs if self._is_last else None

    def _pass_on(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What came into this rank's layers and what left them, when the model was given `inputs`."""
        if self._gang.rank > 0:
            inputs = self._receive(self._gang.rank - 1)
        outputs: Tensor = self._piece(inputs)
        if not self._is_last:
            self._send(outputs, self._gang.rank + 1)
        return inputs, outputs

    # The pipeline of torch wants every batch to be like the first, but the last one of an evaluation may be smaller:
    # so the few lines of a forward-only pipeline are here, each tensor preceded by its type and shape.
    def _send(self, tensor: Tensor, peer: int) -> None:
        header = torch.zeros(8, dtype=torch.int64)
        header[0], header[1] = _DTYPES.index(tensor.dtype), tensor.dim()
        header[2 : 2 + tensor.dim()] = torch.tensor(tensor.shape)
        dist.send(header, peer)
        dist.send(tensor.contiguous(), peer)

    def _receive(self, peer: int) -> Tensor:
        header = torch.zeros(8, dtype=torch.int64)
        dist.recv(header, peer)
        dtype, num_dims, *extents = (int(entry) for entry in header.tolist())
        tensor = torch.empty(extents[:num_dims], dtype=_DTYPES[dtype], device=self._gang.device)
        dist.recv(tensor, peer)
        return tensor

    def gradient_norm(self) -> Tensor:
        """As the protocol says: the root of all ranks' sums of squares."""
        return self._gang.sum(norm_of_gradients(self.module).square()).sqrt()

    def share_buffers(self) -> None:
        """Nothing to do: each buffer is on one rank only."""


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What activations may be; the index is what ranks send each other."""


def norm_of_gradients(module: nn.Module) -> Tensor:
    """L2 norm of the gradients that `module` holds, 0-dim on their device."""
    return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


def rehearse(strategy: Strategy, batches: Sequence[Batch], scaler: GradScaler, go_on: GoOn = lambda: True) -> None:
    """One pass forward and backward whose gradients are dropped, before the first step that counts.

    DDP orders its buckets after the first backward pass, and the order in which floats are summed hangs on that: the
    first step after a resume would differ in its last bits from the same step of an undisturbed run (with three ranks
    or more). In eval mode it leaves no trace, nor is a random number drawn. A pipeline learns its shapes meanwhile.
    """
    strategy.module.eval()
    strategy.accumulate_gradients(batches, 0.0, scaler, go_on)
    strategy.module.train()
    strategy.module.zero_grad(set_to_none=True)
