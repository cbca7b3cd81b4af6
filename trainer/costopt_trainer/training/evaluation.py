"""The loss on held-out samples: the same samples each time, with no effect on the training.

spread_indices       which samples are evaluated; indices_in_lanes: where each goes on from another
validation_totals    sums over this rank's share of them
class_counts, macro_f1    how often each class was told, was told rightly and was the target
describe_results     the figures of an evaluation by name
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from costopt.names import of_source, own_metric_result
from costopt_trainer.data import TrainingData
from costopt_trainer.models.chunked_loss import Use
from costopt_trainer.models.family import Metric
from costopt_trainer.models.loss import IGNORED_TARGET, count_targets, loss_sum
from costopt_trainer.models.own_metrics import NO_METRICS, OwnMetrics
from costopt_trainer.reporting.meter import figure

ACCURACY, MACRO_F1 = "validationAccuracyPermille", "validationMacroF1Permille"
"""Among the results of an evaluation."""

LARGEST_LOSS = 700.0
"""Nats of which a perplexity can still be told: it is larger than the largest float otherwise."""


@dataclass(frozen=True)
class Totals:
    """Sums over evaluated samples; ranks add them up."""

    loss_sum: float
    """Cross-entropies in nats."""
    num_targets: int
    """Predicted tokens (or samples)."""
    class_counts: Tensor | None = None
    """For each class how often it was told rightly, was told, and was the target, float64 (3, K) on the CPU; None if
    not counted."""
    parts: Tensor | None = None
    """Sum of cross-entropies and number of targets of each source of a mixture, float64 (2, S) on the CPU; None if
    there is one source."""
    own_sums: Tensor = NO_METRICS.zeros(torch.device("cpu"))  # noqa: RUF009  nobody changes it
    """Of metrics of the model's own, as `OwnMetrics.sums` has them, on the CPU."""

    @property
    def accuracy(self) -> float | None:
        """Share of targets that were the likeliest class, 0 to 1; None if not counted."""
        return None if self.class_counts is None else float(self.class_counts[0].sum()) / self.num_targets

    def over_ranks(self, add_up: Callable[[Tensor], Tensor]) -> Self:
        """The sums over all ranks; `add_up` gives the sum of a float64 tensor over them."""
        counts = torch.empty(0) if self.class_counts is None else self.class_counts.flatten()
        parts = torch.empty(0) if self.parts is None else self.parts.flatten()
        numbers = torch.tensor([self.loss_sum, self.num_targets], dtype=torch.float64)
        sums = add_up(torch.cat([numbers, self.own_sums, counts, parts]))
        own, counted, of_parts = sums[2:].split([len(self.own_sums), len(counts), len(parts)])
        return type(self)(
            loss_sum=float(sums[0]),
            num_targets=int(sums[1]),
            class_counts=None if self.class_counts is None else counted.view_as(self.class_counts),
            parts=None if self.parts is None else of_parts.view_as(self.parts),
            own_sums=own,
        )


def class_counts(logits: Tensor, targets: Tensor) -> Tensor:
    """What `Totals` has of one batch: logits (..., K) and targets int64 (...) -> float64 (3, K) on their device."""
    likeliest, counted = logits.argmax(dim=-1), targets != IGNORED_TARGET
    num_classes = logits.shape[-1]
    counts = [
        # By an index, not bincount: that waits for the device, and is not repeatable there.
        torch.zeros(num_classes, dtype=torch.float64, device=logits.device).index_put_(
            (classes.flatten(),), of.flatten().double(), accumulate=True
        )
        for classes, of in (
            (likeliest, (likeliest == targets) & counted),
            (likeliest, counted),
            (targets.clamp(min=0), counted),
        )
    ]
    return torch.stack(counts)


def macro_f1(counts: Tensor) -> float:
    """Mean of the F1 scores of the classes that were told or were a target, 0 to 1; `counts` as `class_counts` gives.

    F1 is the harmonic mean of precision and recall: 2 x told rightly / (told + target). Each class weighs the same, so
    that one of few samples counts as much as one of many.
    """
    rightly, told, target = counts
    occurs = told + target > 0
    return float((2 * rightly[occurs] / (told + target)[occurs]).mean()) if bool(occurs.any()) else 0.0


def spread_indices(num_samples: int, max_samples: int) -> npt.NDArray[np.int64]:
    """At most `max_samples` of `num_samples` indices, evenly spread, in order, the same at every call."""
    count = min(num_samples, max_samples)
    return np.arange(count, dtype=np.int64) * num_samples // count if count else np.empty(0, dtype=np.int64)


def indices_in_lanes(num_samples: int, max_samples: int, lanes: int, at_once: int) -> tuple[npt.NDArray[np.int64], int]:
    """Samples to evaluate, at most `max_samples`, where states are carried on; and how many each lane has.

    Lanes begin evenly spread. `at_once` of them, by which `lanes` can be divided, read their samples one after another,
    then the next ones do. Where there are fewer samples than lanes, they are as `spread_indices` gives them, one each.
    """
    length = min(num_samples, max_samples) // lanes
    if length == 0:
        return spread_indices(num_samples, max_samples), 1
    begins_N = np.arange(lanes, dtype=np.int64) * num_samples // lanes
    return (begins_N.reshape(-1, 1, at_once) + np.arange(length).reshape(1, -1, 1)).flatten(), length


def micro_batches(indices: npt.NDArray[np.int64], size: int, data: TrainingData) -> list[npt.NDArray[np.int64]]:
    """The indices in micro-batches of at most `size`. Of a mixture each has samples of one source."""
    stops = np.cumsum([part.num_validation_samples for part in data.parts])[:-1]
    groups = np.split(indices, np.searchsorted(indices, stops)) if data.parts else [indices]
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def validation_totals(
    each_logits: Callable[[Tensor, Tensor, Use], None],
    data: TrainingData,
    *,
    max_samples: int,
    micro_batch_size: int,
    device: torch.device,
    num_classes: int | None = None,
    own_metrics: OwnMetrics = NO_METRICS,
    rank: int = 0,
    world_size: int = 1,
    all_ranks: bool = False,
    go_on: Callable[[int, int], bool] = lambda _done, _all: True,
    lanes: int | None = None,
    begin: Callable[[int], None] = lambda _count: None,
) -> Totals | None:
    """Sums over micro-batches rank, rank + world_size, ... of the evaluated samples.

    `all_ranks`: each round needs `each_logits` on all ranks; one that has nothing left repeats the first samples, and
    does not count them.

    `num_classes`: of a classifier whose answers are to be counted; None: they are not. `own_metrics` see whole
    micro-batches: they are of models that give all logits at once.

    `go_on` is called before each micro-batch, equally often on all ranks, with the number done and the total; if it
    returns False, the result is None.

    `lanes`: samples follow one another in so many lanes, see `indices_in_lanes`. `begin` is called, with the size of a
    micro-batch, before each one that goes on from none. None: no sample goes on from another.

    `each_logits` calls what it is given with logits of inputs on `device` and their targets, all or some at a time; not
    on a rank that only takes part in computing them, whose totals are then zero. The caller puts the model into eval
    mode, so that no random number is drawn. Without `own_metrics` the only host-device sync point is the reading of the
    sums at the end.
    """
    if lanes is None:
        indices, length = spread_indices(data.num_validation_samples, max_samples), 1
    else:
        at_once = world_size * micro_batch_size
        indices, length = indices_in_lanes(data.num_validation_samples, max_samples, lanes, at_once)
    batches = micro_batches(indices, micro_batch_size, data)
    stops = np.cumsum([part.num_validation_samples for part in data.parts])
    parts = torch.zeros(2, len(stops), dtype=torch.float64, device=device) if data.parts else None
    part = 0
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    own_sums = own_metrics.zeros(device)
    told = None if num_classes is None else torch.zeros(3, num_classes, dtype=torch.float64, device=device)

    def add(logits: Tensor, targets: Tensor) -> None:
        own_sums.add_(own_metrics.sums(logits, targets))
        of_batch = torch.stack([loss_sum(logits, targets).double(), count_targets(targets).double()])
        sums.add_(of_batch)
        if parts is not None:
            parts[:, part] += of_batch
        if told is not None:
            told.add_(class_counts(logits, targets))

    with torch.no_grad():
        num_rounds = -(-len(batches) // world_size)
        for number in range(num_rounds):
            if not go_on(number, num_rounds):
                return None
            place = number * world_size + rank
            counts = place < len(batches)
            if not counts and not all_ranks:
                break  # the last round may not have one for every rank
            batch = batches[place if counts else 0]
            part = int(np.searchsorted(stops, batch[0], side="right"))
            inputs, targets = data.validation_batch(batch)
            inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            if number % length == 0:
                begin(len(inputs))
            each_logits(inputs, targets, add if counts else lambda _logits, _targets: None)
    loss, num_targets = sums.tolist()
    counts_K, of_parts = (None if each is None else each.cpu() for each in (told, parts))
    return Totals(loss, int(num_targets), counts_K, of_parts, own_sums.cpu())


def describe_results(
    metric: Metric, data: TrainingData, totals: Totals, own_metrics: OwnMetrics = NO_METRICS
) -> dict[str, str]:
    """Named figures of an evaluation, the unit of each in its name, and reference figures."""
    loss = totals.loss_sum / totals.num_targets
    results = {metric.loss: figure(loss)}
    if data.validation_bytes_per_token is not None:
        per_byte = loss / data.validation_bytes_per_token
        results["validationLossNatsPerByte"] = figure(per_byte)
        results["validationBitsPerByte"] = figure(per_byte / math.log(2))
    if metric.perplexity is not None and loss < LARGEST_LOSS:
        results[metric.perplexity] = figure(math.exp(loss))
    if totals.class_counts is not None:
        results[ACCURACY] = str(round(1000 * (totals.accuracy or 0)))
        results[MACRO_F1] = str(round(1000 * macro_f1(totals.class_counts)))
    if totals.parts is not None:
        for part, (of_part, count) in zip(data.parts, totals.parts.T.tolist(), strict=True):
            if count:  # of a small source perhaps no sample is among those that are evaluated
                results[of_source(metric.loss, part.name)] = figure(of_part / count)
    for name, mean in own_metrics.means(totals.own_sums).items():
        results[own_metric_result(name)] = figure(mean)
    return results | {name: figure(entropy) for name, entropy in data.reference_entropies.items()}
