"""Quality of a variant, its baseline and guessing on the same held-out targets, and how sure the difference is.

Quality            one model's loss, accuracy, macro F1 and metrics of its own
compare_quality    all models on the same samples, and the differences of the first two

All are evaluated in turn, micro-batch by micro-batch, so that all have seen the same samples when the time is up. The
micro-batches come in a fixed shuffled order, so that those seen are spread over the split.

Loss and accuracy are kept of each sample, what cannot be (macro F1, metrics of a model's own) of each micro-batch: from
these sums the intervals of bootstrap.py are drawn.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from costopt.schema.variant_report import Target
from costopt_trainer.compress.bootstrap import Difference, Numbers, Statistic, bootstrap, ratio
from costopt_trainer.compress.engines import Forward
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.data.entropy import UNIGRAM
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.loss import IGNORED_TARGET, each_loss
from costopt_trainer.models.own_metrics import NO_METRICS, OwnMetrics
from costopt_trainer.phases import phase
from costopt_trainer.training.evaluation import class_counts, macro_f1

MOST_COUNTS = 2**22
"""Of classes and micro-batches together, that macro F1 is drawn from: 32 MiB."""


@dataclass(frozen=True)
class Quality:
    """One model on the held-out samples."""

    loss: float
    """Nats per target: a token, or a sample of images."""
    accuracy: float | None
    """Share of targets that were the likeliest class; None if not counted."""
    macro_f1: float | None
    """Mean of the classes' F1 scores; None if not counted."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Means of the metrics of the model's own."""


@dataclass(frozen=True)
class Change:
    """How a metric of the second model differs from the first's."""

    metric: str
    """Loss, Accuracy, MacroF1, or one of the models' own."""
    unit: Literal["Sample", "MicroBatch"]
    """What was drawn."""
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """All models on the same samples."""

    qualities: tuple[Quality, ...]
    loss_per: Target
    """What the losses are per."""
    bytes_per_token: float | None
    """Bytes of text per held-out token; None where the losses are not of each token."""
    trivial_loss: float
    """The loss of guessing by frequency, in the unit of the losses: see `_of_guessing`."""
    samples: int
    """Number of evaluated held-out samples."""
    changes: tuple[Change, ...] = ()
    """Of the second model from the first; none where there is one model, and of what has a single unit."""


class _Tally:
    """What one model did, sample by sample and micro-batch by micro-batch."""

    def __init__(self, num_classes: int | None, own_metrics: OwnMetrics) -> None:
        self._num_classes, self._own = num_classes, own_metrics
        self._losses: list[Tensor] = []
        self._rightly: list[Tensor] = []
        self._counted: list[Tensor] = []
        self._own_sums: list[Tensor] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """A micro-batch: logits (B, ..., K) and targets (B, ...)."""
        self._losses.append(each_loss(logits, targets).view(len(targets), -1).sum(dim=1, dtype=torch.float64))
        if self._num_classes is not None:
            self._counted.append(class_counts(logits, targets).cpu())
            self._rightly.append((logits.argmax(dim=-1) == targets).double())
        self._own_sums.append(self._own.sums(logits, targets).cpu())

    def quality(self, num_targets: int) -> Quality:
        """Over all samples so far."""
        counts = sum(self._counted, torch.zeros(())) if self._counted else None
        return Quality(
            loss=float(torch.cat(self._losses).sum()) / num_targets,
            accuracy=None if counts is None else float(counts[0].sum()) / num_targets,
            macro_f1=None if counts is None else macro_f1(counts),
            metrics=self._own.means(torch.stack(self._own_sums).sum(dim=0)),
        )

    def sums(self, targets_U: Numbers) -> Iterator[tuple[str, Literal["Sample", "MicroBatch"], Statistic, Numbers]]:
        """Metric, unit, statistic and its sums over each unit; `targets_U`: targets of each sample."""
        yield "Loss", "Sample", ratio, np.stack([_numbers(self._losses), targets_U], axis=1)
        if self._rightly:
            yield "Accuracy", "Sample", ratio, np.stack([_numbers(self._rightly), targets_U], axis=1)
        if self._counted and len(self._counted) * self._counted[0].numel() <= MOST_COUNTS:
            counts = torch.stack(self._counted).flatten(1).numpy()
            yield "MacroF1", "MicroBatch", _macro_f1_of_each, counts
        own_US = torch.stack(self._own_sums).numpy()
        for place, name in enumerate(self._own.names):
            yield name, "MicroBatch", ratio, own_US[:, [place, -1]]


def compare_quality(
    forwards: Sequence[Forward],
    held_out: HeldOut,
    device: torch.device,
    own_metrics: OwnMetrics = NO_METRICS,
    *,
    seconds: float,
) -> Comparison:
    """Evaluate each of `forwards` on `held_out`: of a recipe, what training is evaluated on. It ends after the
    micro-batch that exceeds `seconds`.

    No autocast, whatever the recipe's precision: the loss is that of the weights as they are stored. Raises
    NotRetryable("LossNotFinite") if a loss is infinite or not a number.
    """
    size, metric, data = held_out.batch_size, held_out.metric, held_out.data
    num_classes = data.num_classes if metric.accuracy else None
    indices = held_out.judging()
    starts = np.random.default_rng(0).permutation(np.arange(0, len(indices), size))
    tallies = [_Tally(num_classes, own_metrics) for _ in forwards]
    counts = torch.zeros(0, dtype=torch.int64)
    targets_of_samples: list[Tensor] = []
    samples = 0
    end = time.monotonic() + seconds
    with phase("Evaluating") as pieces, torch.no_grad():
        for number, start in enumerate(starts):
            if number and time.monotonic() > end:
                print(f"evaluated {samples} of {len(indices)} samples in {seconds:.0f} s", flush=True)
                break
            inputs, targets = data.validation_batch(indices[start : start + size])
            counts = _add(counts, targets)
            targets_of_samples.append((targets != IGNORED_TARGET).view(len(targets), -1).sum(dim=1).double())
            samples += len(inputs)
            inputs, targets = inputs.to(device), targets.to(device)
            for tally, forward in zip(tallies, forwards, strict=True):
                tally.add(forward(inputs), targets)
                pieces.done(number, len(starts))
    num_targets = int(counts.sum())
    qualities = tuple(tally.quality(num_targets) for tally in tallies)
    for quality in qualities:
        if not math.isfinite(quality.loss):
            raise NotRetryable(
                "LossNotFinite", f"the validation loss is {quality.loss}, so the variant cannot be compared"
            )
    changes = tuple(_changes(tallies[0], tallies[1], _numbers(targets_of_samples))) if len(tallies) > 1 else ()
    bytes_per_token = data.validation_bytes_per_token
    return Comparison(qualities, metric.target, bytes_per_token, _of_guessing(held_out, counts), samples, changes)


def _changes(first: _Tally, second: _Tally, targets_U: Numbers) -> Iterator[Change]:
    for (metric, unit, statistic, of_first), (*_, of_second) in zip(
        first.sums(targets_U), second.sums(targets_U), strict=True
    ):
        if len(of_first) > 1:
            yield Change(metric, unit, bootstrap(of_first, of_second, statistic))


def _macro_f1_of_each(counts_RS: Numbers) -> Numbers:
    return np.array([macro_f1(torch.from_numpy(counts).view(3, -1)) for counts in counts_RS])


def _numbers(parts: Sequence[Tensor]) -> Numbers:
    return torch.cat(list(parts)).cpu().numpy()


def _add(counts: Tensor, targets: Tensor) -> Tensor:
    """`counts` of each target so far, plus those of `targets`."""
    kept = targets.flatten()
    more = torch.bincount(kept[kept != IGNORED_TARGET], minlength=len(counts))
    more[: len(counts)] += counts
    return more


def _of_guessing(held_out: HeldOut, counts: Tensor) -> float:
    """The loss of guessing by frequency: the entropy of the targets, of which `counts` have been evaluated.

    Where each token is a byte, that of all held-out bytes is known, and is what the results of training say: so that a
    user is not told two numbers for one thing.
    """
    data = held_out.data
    of_bytes = data.reference_entropies.get(UNIGRAM)
    if of_bytes is not None and held_out.metric.target == "Token" and data.validation_bytes_per_token == 1:
        return of_bytes
    return _entropy(counts)


def _entropy(counts: Tensor) -> float:
    """Entropy in nats of the distribution that `counts` are proportional to."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log()).sum())
