"""The layers of a model split over ranks, alone or with several replicas of the model."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.training.parallel.strategy import Batch, GoOn, norm_of_gradients
from costopt_trainer.training.precision import Autocast
from costopt_trainer.training.process_group import ProcessGroup


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


class Pipeline:
    """Every rank holds a run of layers; micro-batches go forward and gradients backward from rank to rank.

    With several replicas of the model, consecutive ranks are one pipeline. Each replica takes its share of the batch,
    and after the backward pass the ranks that hold the same layers add up their gradients.

    GPipe (arXiv 1811.06965) runs all forward passes, then all backward passes; OneFOneB (PipeDream, arXiv 1806.03377)
    starts each backward pass as soon as it can, and so holds the activations of fewer micro-batches.
    """

    gradients_are_split = True

    def __init__(
        self,
        model: LayeredModel,
        gang: ProcessGroup,
        autocast: Autocast,
        *,
        schedule: Literal["GPipe", "OneFOneB"],
        num_micro_batches: int,
        num_stages: int,
    ) -> None:
        """`num_micro_batches`: of a replica's share of the batch. `num_stages` divides the number of ranks."""
        self._num_stages = num_stages
        self.data_rank, self._stage = divmod(gang.rank, num_stages)
        self.data_size = gang.world_size // num_stages
        self.saves_module = self.data_rank == 0
        self._stages, self._replicas = _groups(gang, num_stages)
        first = model.num_layers * self._stage // num_stages
        last = model.num_layers * (self._stage + 1) // num_stages
        # Cut on the host, so that a device never holds more than its own layers.
        self.module: nn.Module = model.keep_layers(first, last).to(gang.device)
        self.holds_loss = self._is_last = self._stage == num_stages - 1
        self._gang = gang
        self._piece = _Piece(self.module, autocast)
        # 1F1B needs a micro-batch for every rank to be at work on; with fewer, GPipe holds no more of them either.
        self._fills = schedule == "OneFOneB" and num_micro_batches >= num_stages
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
            self._stage,
            self._num_stages,
            self._gang.device,
            # Gradients go back through whatever passes between ranks, but not into the data.
            input_args=torch.empty_like(entering, device="meta", requires_grad=self._stage > 0),
            output_args=torch.empty_like(leaving, device="meta", requires_grad=True),
            group=self._stages,
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
        """As the protocol says; `batches` is the replica's share on each of its ranks, torch's pipeline one call."""
        if self._schedule is None:
            self._schedule = self._make_schedule(batches[0][0])
        self._weight, self._scaler = weight, scaler
        self._total = torch.zeros_like(self._total)
        scaler.scale(self._total)  # sets it up, on the ranks that see no loss too
        inputs = (torch.cat([inputs for inputs, _ in batches]),) if self._stage == 0 else ()
        targets = torch.cat([targets for _, targets in batches]) if self._is_last else None
        # The pipeline cuts the batch into the same micro-batches again: all are of one size.
        self._schedule.step(*inputs, target=targets, return_outputs=False)
        self._sum_over_replicas()
        return self._total

    def _sum_over_replicas(self) -> None:
        """Add up the gradients of the ranks that hold the same layers, all in one exchange."""
        if self.data_size == 1:
            return
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together, group=self._replicas)
        parts = together.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def forward(self, inputs: Tensor) -> Tensor | None:
        """As the protocol says; all ranks must call it with the same inputs. Any batch size will do."""
        _, outputs = self._pass_on(inputs)
        return outputs if self._is_last else None

    def _pass_on(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What came into this rank's layers and what left them, when the model was given `inputs`."""
        if self._stage > 0:
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
        """As the protocol says: the root of the sums of squares of a replica's ranks."""
        square = norm_of_gradients(self.module).square()
        dist.all_reduce(square, group=self._stages)
        return square.sqrt()

    def share_buffers(self) -> None:
        """As the protocol says: of the ranks that hold the same layers, those of the first replica's."""
        if self.data_size > 1:
            for buffer in self.module.buffers():
                dist.broadcast(buffer, src=self._stage, group=self._replicas)


def _groups(gang: ProcessGroup, num_stages: int) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup | None]:
    """The ranks of this one's pipeline, and those that hold the same layers; None for all ranks, or where not used."""
    if num_stages == gang.world_size:
        return None, None
    mine: list[dist.ProcessGroup | None] = [None, None]
    pipelines = [range(first, first + num_stages) for first in range(0, gang.world_size, num_stages)]
    stages = [range(stage, gang.world_size, num_stages) for stage in range(num_stages)]
    for number, parts in enumerate((pipelines, stages)):
        for ranks in parts:  # each rank takes part in making every group, in the same order
            group = dist.new_group(list(ranks))
            if gang.rank in ranks:
                mine[number] = group
    return mine[0], mine[1]


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What activations may be; the index is what ranks send each other."""
