"""Splitting the matrices of each layer over ranks that work on the same samples (Megatron-LM, arXiv 1909.08053).

split_tensors    splits a model in place, as its family's plan says

Two matrices in a row are split by columns, then by rows: so ranks exchange activations once after each pair. With
sequence parallelism (arXiv 2205.05198) what lies between is shared out by positions. The logits stay split over the
vocabulary, and the loss is computed of the parts (loss parallel).
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from costopt_trainer.models.family import LayeredModel, SplitRole

_POSITIONS = 1
"""The dimension of activations (B, T, D) that sequence parallelism shares out."""


def split_tensors(model: LayeredModel, devices: DeviceMesh, *, sequence: bool) -> None:
    """Split the parameters of `model` over `devices`, which has one dimension, by `model.split_plan`."""
    styles = {name: style for name, role in model.split_plan.items() if (style := _style(role, sequence)) is not None}
    tied = dict(model.tied)  # a model may tell it by what is one tensor now
    parallelize_module(model, devices, {name: style for name, style in styles.items() if _is_there(model, name)})
    for copy, original in tied.items():  # each of them was split by itself
        owner, _, name = copy.rpartition(".")
        setattr(model.get_submodule(owner), name, model.get_parameter(original))


def _style(role: SplitRole, sequence: bool) -> ParallelStyle | None:
    between = Shard(_POSITIONS) if sequence else Replicate()
    match role:
        case "columns":
            return ColwiseParallel()
        case "rows":
            return RowwiseParallel(output_layouts=between)
        case "embedding":
            return RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
        case "head":
            return ColwiseParallel(input_layouts=between, output_layouts=Shard(-1), use_local_output=False)
        case "gathered columns":
            return ColwiseParallel(output_layouts=Replicate())
        case "rows of whole inputs":
            return RowwiseParallel(input_layouts=Replicate())
        case "norm of heads":
            # It treats all but the last dimension alike. So the first can stand for whichever has the heads.
            return SequenceParallel(sequence_dim=0, use_local_output=True)
        case _ if not sequence:
            return None
        case "norm":
            return SequenceParallel(sequence_dim=_POSITIONS, use_local_output=True)
        case "entry":
            return PrepareModuleOutput(output_layouts=Replicate(), desired_output_layouts=between)
        case "sublayer":
            return PrepareModuleInput(input_layouts=between, desired_input_layouts=Replicate())


def _is_there(model: nn.Module, pattern: str) -> bool:
    """Whether a module matches, so that torch does not warn of those that a model has only with other settings."""
    parts = pattern.split(".")
    return any(
        len(names) == len(parts) and all(part in ("*", name) for part, name in zip(parts, names, strict=True))
        for names in (name.split(".") for name, _ in model.named_modules())
    )
