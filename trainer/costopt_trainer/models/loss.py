"""The loss of every family: cross-entropy with the targets, which is what its yardsticks are in, too."""

import torch
import torch.nn.functional as F
from torch import Tensor

from costopt_trainer.data.training_data import IGNORED_TARGET

__all__ = ["IGNORED_TARGET", "count_targets", "loss_sum"]


def loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies in nats over all targets but the ignored, as a 0-dim float32 tensor.

    `logits` is (..., K) in any float type, `targets` int64 (...). A sum, not a mean: sums of micro-batches and ranks
    add up, and one division by the number of all targets weights every token alike.
    """
    return F.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED_TARGET, reduction="sum"
    )


def count_targets(targets: Tensor) -> Tensor:
    """How many targets are not ignored, as a 0-dim int64 tensor on their device."""
    return torch.count_nonzero(targets != IGNORED_TARGET)
