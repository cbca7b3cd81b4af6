"""The layers of a model split over ranks, alone or with several replicas of the model, whole or sharded."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)

from costopt.schema.parallelism import WITH_SEVERAL_STAGES, Parallelism
from costopt_trainer.models.chunked_loss import Use
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.storage.tensor_pieces import Shard
from costopt_trainer.training.parallel.mesh import Mesh
from costopt_trainer.training.parallel.sharded import (
    broadcast_buffers,
    drop_gathered,
    shard_states,
    sum_over_replicas,
)
from costopt_trainer.training.parallel.shards import local, square_of_gradients, to_save
from costopt_trainer.training.parallel.stages import cut
from costopt_trainer.training.parallel.strategy import Batch, GoOn
from costopt_trainer.training.precision import Autocast, PrecisionName

Schedule = Schedule1F1B | ScheduleGPipe | ScheduleInterleaved1F1B | ScheduleInterleavedZeroBubble


class Pipeline:
    """Every rank holds runs of layers; micro-batches go forward and gradients backward from rank to rank.

    Stage s is on rank s modulo the pipeline's ranks. Each replica takes its share of the batch; after the backward pass
    the ranks that hold the same layers add up their gradients, or reduce them to what each holds.

    GPipe (arXiv 1811.06965) runs all forward passes, then all backward passes; OneFOneB (PipeDream, arXiv 1806.03377)
    starts each backward pass as soon as it can, and so holds the activations of fewer micro-batches. Interleaved (arXiv
    2104.04473) has several runs of layers on each rank, so that ranks wait less; ZeroBubble (arXiv 2401.10241) also
    puts the gradients of weights off until a rank would wait.
    """

    gradients_are_split = True

    def __init__(
        self,
        model: LayeredModel,
        mesh: Mesh,
        autocast: Autocast,
        settings: Parallelism,
        precision: PrecisionName,
        *,
        num_micro_batches: int,
    ) -> None:
        """`num_micro_batches`: of a replica's share of the batch."""
        self._mesh, self._gang = mesh, mesh.gang
        self.data_rank, self.data_size = mesh.data_rank, mesh.data_size
        self._num_ranks, self._rank = mesh.degrees["pipeline"], mesh.coordinates["pipeline"]
        self._num_stages = settings.num_stages
        own = range(self._rank, self._num_stages, self._num_ranks)
        # Cut on the host, so that a device never holds more than its own layers.
        parts = cut(model, own, self._num_stages, settings.layers_per_stage, autocast)
        self._stages = parts.stages
        self._is_sharded = self.forward_needs_all_ranks = mesh.degrees["shard"] > 1
        for stage in self._stages.values():
            if self._is_sharded:  # gathered weights stay until the last micro-batch's backward pass
                blocks = stage.layers.blocks()
                shard_states(stage, blocks, mesh, settings, precision, reshard_after_forward=False)
            else:
                stage.to(mesh.gang.device)
        self.module = parts.module
        self.holds_loss = self._is_last = self._num_stages - 1 in self._stages
        # 1F1B needs a micro-batch for every rank to be at work on; with fewer, GPipe holds no more of them either.
        fills = num_micro_batches >= self._num_ranks
        self._schedule_name = settings.schedule if fills or settings.schedule in WITH_SEVERAL_STAGES else "GPipe"
        self._num_micro_batches = num_micro_batches
        self._schedule: Schedule | None = None  # needs to see a micro-batch first
        self._weight: float = 1.0
        self._scaler = GradScaler(mesh.gang.device.type, enabled=False)
        self._total = torch.zeros((), dtype=torch.float64, device=mesh.gang.device)
        self._ends = TiedEnds(self.module, mesh, is_first=0 in self._stages, is_last=self._is_last)

    def _make_schedule(self, inputs: Tensor) -> Schedule:
        """torch's pipeline for micro-batches like `inputs`; all ranks must call it with the same.

        It is told the shapes that pass from rank to rank, which a pass forward shows. Left to itself it exchanges them
        as pickles, and runs the layers on uninitialised memory, which poisons batch-norm statistics.
        """
        was_training = self.module.training
        self.module.eval()  # so that no random number is drawn
        with torch.no_grad():
            passed = self._pass_on(inputs)
        self.module.train(was_training)
        stages: list[Any] = [
            PipelineStage(
                self._stages[number],
                number,
                self._num_stages,
                self._gang.device,
                # Gradients go back through whatever passes between ranks, but not into the data.
                input_args=torch.empty_like(entering, device="meta", requires_grad=number > 0),
                output_args=torch.empty_like(leaving, device="meta", requires_grad=True),
                group=self._mesh.group("pipeline"),
            )
            for number, (entering, leaving) in passed.items()
        ]
        count, loss = self._num_micro_batches, self._weighted_loss
        match self._schedule_name:
            case "GPipe":
                return ScheduleGPipe(stages[0], count, loss_fn=loss, scale_grads=False)
            case "OneFOneB":
                return Schedule1F1B(stages[0], count, loss_fn=loss, scale_grads=False)
            case "Interleaved":
                return ScheduleInterleaved1F1B(stages, count, loss_fn=loss, scale_grads=False)
            case "ZeroBubble":
                return ScheduleInterleavedZeroBubble(stages, count, loss_fn=loss, scale_grads=False)

    def _weighted_loss(self, leaving: Tensor, targets: Tensor) -> Tensor:
        # ZeroBubble asks for the gradients of weights later than for those of activations.
        once = self._schedule_name != "ZeroBubble"
        loss = self._stages[self._num_stages - 1].loss_sum(leaving, targets, once=once)
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
        inputs = (torch.cat([inputs for inputs, _ in batches]),) if 0 in self._stages else ()
        targets = torch.cat([targets for _, targets in batches]) if self._is_last else None
        # The pipeline cuts the batch into the same micro-batches again: all are of one size.
        self._schedule.step(*inputs, target=targets, return_outputs=False)
        if not self._is_sharded:
            sum_over_replicas(self.module, self._mesh.group("dataParallel"))
        self._ends.sum_gradients()
        return self._total

    def each_logits(self, inputs: Tensor, targets: Tensor, use: Use) -> None:
        """As the protocol says; all ranks must call it with the same inputs. Any batch size will do."""
        passed = self._pass_on(inputs)
        if self._is_last:
            self._stages[self._num_stages - 1].each_logits(passed[self._num_stages - 1][1], targets, use)

    def _pass_on(self, inputs: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """What came into each of this rank's stages and what left it, when the model was given `inputs`."""
        passed = {}
        for number, stage in self._stages.items():
            entering = inputs if number == 0 else self._receive(number - 1)
            leaving: Tensor = stage(entering)
            if number < self._num_stages - 1:
                self._send(leaving, number + 1)
            passed[number] = (entering, leaving)
        return passed

    # The pipeline of torch wants every batch to be like the first, but the last one of an evaluation may be smaller:
    # so the few lines of a forward-only pipeline are here, each tensor preceded by its type and shape.
    def _send(self, tensor: Tensor, stage: int) -> None:
        group, peer = self._mesh.group("pipeline"), stage % self._num_ranks
        header = torch.zeros(8, dtype=torch.int64)
        header[0], header[1] = _DTYPES.index(tensor.dtype), tensor.dim()
        header[2 : 2 + tensor.dim()] = torch.tensor(tensor.shape)
        dist.send(header, group=group, group_dst=peer)
        dist.send(tensor.contiguous(), group=group, group_dst=peer)

    def _receive(self, stage: int) -> Tensor:
        group, peer = self._mesh.group("pipeline"), stage % self._num_ranks
        header = torch.zeros(8, dtype=torch.int64)
        dist.recv(header, group=group, group_src=peer)
        dtype, num_dims, *extents = (int(entry) for entry in header.tolist())
        tensor = torch.empty(extents[:num_dims], dtype=_DTYPES[dtype], device=self._gang.device)
        dist.recv(tensor, group=group, group_src=peer)
        return tensor

    def gradient_norm(self) -> Tensor:
        """As the protocol says: the root of the sums of squares of a replica's ranks."""
        gradients = [
            parameter.grad
            for name, parameter in self.module.named_parameters()
            if parameter.grad is not None and name not in self._ends.copies
        ]
        square = square_of_gradients(gradients, self._mesh)
        dist.all_reduce(square, group=self._mesh.group("pipeline"))
        return square.sqrt()

    def share_buffers(self) -> None:
        """As the protocol says: of the ranks that hold the same layers, those of the first."""
        broadcast_buffers(self.module, self._mesh)

    def weights_changed(self) -> None:
        """As the protocol says."""
        for stage in self._stages.values():
            drop_gathered(stage)

    def to_save(self, tensors: dict[str, Tensor]) -> dict[str, Tensor | Sequence[Shard]]:
        """As the protocol says: each rank its layers."""
        own = {name: tensor for name, tensor in tensors.items() if not self._ends.is_of_copy(name)}
        return to_save(own, self._mesh)


class TiedEnds:
    """Parameters of the last stage that are copies of some of the first: gradients are summed, so both step alike."""

    def __init__(self, module: LayeredModel, mesh: Mesh, *, is_first: bool, is_last: bool) -> None:
        """All ranks must make it at the same time."""
        self._module = module
        self.copies: dict[str, str] = dict(module.tied) if is_last and not is_first else {}
        """Name of each copy that this rank holds -> name of the parameter on the first rank."""
        self._originals = sorted(module.tied.values()) if is_first and not is_last else []
        self._group: dist.ProcessGroup | None = None
        if module.tied:
            self._group = _first_and_last(mesh)

    def is_of_copy(self, name: str) -> bool:
        """Whether a tensor is a copy, or the optimizer's "<parameter>/<name>" of one."""
        return name in self._module.tied or name.rpartition("/")[0] in self._module.tied

    def sum_gradients(self) -> None:
        """Add up the gradients of both ends, on both."""
        if self._group is None or not (self.copies or self._originals):
            return
        parameters = dict(self._module.named_parameters())
        names = self._originals or [copy for copy, _ in sorted(self.copies.items(), key=lambda pair: pair[1])]
        for name in names:
            gradient = parameters[name].grad
            if gradient is not None:
                dist.all_reduce(local(gradient), group=self._group)


def _first_and_last(mesh: Mesh) -> dist.ProcessGroup | None:
    """The group of the first and the last rank of this rank's pipeline; every rank takes part in making all of them."""
    own = mesh.group("pipeline")
    if own is None or mesh.degrees["pipeline"] == 2:
        return own
    mine = None
    per_stage = mesh.gang.world_size // mesh.degrees["pipeline"]
    for place in range(per_stage):
        group = dist.new_group([place, mesh.gang.world_size - per_stage + place])
        mine = group if mesh.gang.rank % per_stage == place else mine
    return mine


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What activations may be; the index is what ranks send each other."""
