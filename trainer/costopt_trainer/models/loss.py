"""The loss of every family: cross-entropy with the targets, which is what its yardsticks are in, too.

loss_sum         its sum over all targets; Tell: what may hear of each of them
each_loss        that of each target
count_targets    how many these are
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from costopt_trainer.data.training_data import IGNORED_TARGET

__all__ = ["IGNORED_TARGET", "Tell", "count_targets", "each_loss", "loss_sum"]

Tell = Callable[[Tensor], None]
"""Is told the loss of each target, float32 (N,) in their order, without smoothing and gradient; NaN of the ignored."""


def loss_sum(logits: Tensor, targets: Tensor, smoothing: float = 0.0, tell: Tell | None = None) -> Tensor:
    """Sum of the cross-entropies in nats over all targets but the ignored, as a 0-dim float32 tensor.

    `logits` is (..., K) in any float type, `targets` int64 (...). A sum, not a mean: sums of micro-batches and ranks
    add up, and one division by the number of all targets weights every token alike.

    `smoothing`: this share of each target is spread evenly over all classes (arXiv 1512.00567, section 7). `tell`:
    costs another pass over the logits, which must not be split.
    """
    logits_NK, targets_N = logits.flatten(0, -2).float(), targets.flatten()
    if tell is not None:
        each_N = F.cross_entropy(logits_NK.detach(), targets_N, ignore_index=IGNORED_TARGET, reduction="none")
        tell(each_N.masked_fill(targets_N == IGNORED_TARGET, float("nan")))
    if smoothing and hasattr(logits_NK, "to_local"):
        return loss_sum(logits, targets) + smoothing * _lead_sum(logits_NK, targets_N)
    return F.cross_entropy(
        logits_NK, targets_N, ignore_index=IGNORED_TARGET, reduction="sum", label_smoothing=smoothing
    )


def each_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each target in nats, float32 in the shape of `targets`, without smoothing; 0 of the ignored.

    `logits` is (..., K) in any float type, `targets` int64 (...).
    """
    logits_NK = logits.flatten(0, -2).float()
    each_N = F.cross_entropy(logits_NK, targets.flatten(), ignore_index=IGNORED_TARGET, reduction="none")
    return each_N.view_as(targets)


def _lead_sum(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    """By how much the targets' logits are above the mean of their row, summed up; the logits are split by classes.

    Times the smoothing it is what smoothing adds to the loss, of which torch has no form for split logits.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard  # noqa: PLC0415  few losses are split

    split = cast(DTensor, logits_NK)
    if split.placements != (Shard(1),):
        raise ValueError(f"logits are split by classes, and not {split.placements}")
    own_NK, num_classes = split.to_local(), split.shape[1]
    first = split.device_mesh.get_local_rank() * -(-num_classes // split.device_mesh.size())
    targets_N = targets_N.to_local() if isinstance(targets_N, DTensor) else targets_N
    place_N = targets_N - first
    is_here_N = (targets_N != IGNORED_TARGET) & (place_N >= 0) & (place_N < own_NK.shape[1])
    at_target_N = own_NK.gather(1, place_N.where(is_here_N, 0).unsqueeze(1)).squeeze(1)
    counted = own_NK.sum(dim=1) * (targets_N != IGNORED_TARGET) / num_classes
    part = (at_target_N * is_here_N).sum() - counted.sum()
    return DTensor.from_local(part, split.device_mesh, [Partial()]).redistribute(placements=[Replicate()])


def count_targets(targets: Tensor) -> Tensor:
    """How many targets are not ignored, as a 0-dim int64 tensor on their device."""
    return torch.count_nonzero(targets != IGNORED_TARGET)
