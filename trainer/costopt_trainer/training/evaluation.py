"""The loss on held-out samples: the same samples each time, with no effect on the training.

spread_indices       which samples are evaluated
validation_totals    sums over this rank's share of them
describe_results     the figures of an evaluation by name
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from costopt_trainer.data import TrainingData
from costopt_trainer.models.family import Metric
from costopt_trainer.models.loss import count_targets, loss_sum
from costopt_trainer.training.meter import figure


@dataclass(frozen=True)
class Totals:
    """Sums over evaluated samples; ranks add them up."""

    loss_sum: float
    """Cross-entropies in nats."""
    num_targets: int
    """Predicted tokens (or samples)."""
    num_correct: int
    """Targets that were the likeliest class; 0 if not counted."""


def spread_indices(num_samples: int, max_samples: int) -> npt.NDArray[np.int64]:
    """At most `max_samples` of `num_samples` indices, evenly spread, in order, the same at every call."""
    count = min(num_samples, max_samples)
    return np.arange(count, dtype=np.int64) * num_samples // count if count else np.empty(0, dtype=np.int64)


def validation_totals(
    model_forward: Callable[[Tensor], Tensor | None],
    data: TrainingData,
    *,
    max_samples: int,
    micro_batch_size: int,
    device: torch.device,
    counts_correct: bool = False,
    rank: int = 0,
    world_size: int = 1,
    all_ranks: bool = False,
    go_on: Callable[[int, int], bool] = lambda _done, _all: True,
) -> Totals | None:
    """Sums over micro-batches rank, rank + world_size, ... of the evaluated samples.

    `all_ranks`: each round needs `model_forward` on all ranks; one that has nothing left repeats the first samples, and
    does not count them.

    `go_on` is called before each micro-batch, equally often on all ranks, with the number done and the total; if it
    returns False, the result is None.

    `model_forward` maps inputs on `device` to logits, or to None on a rank that only takes part in computing them,
    whose totals are then zero. The caller puts the model into eval mode, so that no random number is drawn. The only
    host-device sync point is the reading of the sums at the end.
    """
    indices = spread_indices(data.num_validation_samples, max_samples)
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    with torch.no_grad():
        num_rounds = -(-len(indices) // (world_size * micro_batch_size))
        for number in range(num_rounds):
            if not go_on(number, num_rounds):
                return None
            start = (number * world_size + rank) * micro_batch_size
            counts = start < len(indices)
            if not counts and not all_ranks:
                break  # the last round may not have one for every rank
            start = start if counts else 0
            inputs, targets = data.validation_batch(indices[start : start + micro_batch_size])
            inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            logits = model_forward(inputs)
            if logits is None or not counts:
                continue
            sums[0] += loss_sum(logits, targets)
            sums[1] += count_targets(targets)
            if counts_correct:
                sums[2] += (logits.argmax(dim=-1) == targets).sum()
    loss, num_targets, num_correct = sums.tolist()
    return Totals(loss, int(num_targets), int(num_correct))


def describe_results(metric: Metric, data: TrainingData, loss: float, correct: float) -> dict[str, str]:
    """Named figures of an evaluation and reference figures.

    `loss` is in nats per unit of `metric`, `correct` the share of targets that were the likeliest class, 0 to 1.
    """
    results = {metric.loss: figure(loss)}
    if data.validation_bytes_per_token is not None:
        results["validationLossNatsPerByte"] = figure(loss / data.validation_bytes_per_token)
    if metric.accuracy:
        results["validationAccuracyPermille"] = str(round(1000 * correct))
    return results | {name: figure(entropy) for name, entropy in data.reference_entropies.items()}
