"""Validation loss of a variant, its baseline and guessing on the same held-out targets.

Both are evaluated in turn, micro-batch by micro-batch, so that both have seen the same samples when the time is up. The
micro-batches come in a fixed shuffled order, so that those seen are spread over the split.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from costopt.schema.variant_report import Target
from costopt_trainer.compress.engines import Forward
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.loss import IGNORED_TARGET, loss_sum
from costopt_trainer.models.own_metrics import NO_METRICS, OwnMetrics
from costopt_trainer.phases import phase
from costopt_trainer.training.evaluation import Totals, class_counts, macro_f1, spread_indices

EVALUATION_LIMIT_SECONDS = 60.0
"""Evaluation ends after the micro-batch that exceeds this."""


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
class Comparison:
    """All models on the same samples."""

    qualities: tuple[Quality, ...]
    loss_per: Target
    """What the losses are per."""
    bytes_per_token: float | None
    """Bytes of text per held-out token; None where the losses are not of each token."""
    trivial_loss: float
    """Entropy of the targets, in the unit of the losses: the loss of guessing by frequency."""
    samples: int
    """Number of evaluated held-out samples."""


def compare_quality(
    forwards: Sequence[Forward], held_out: HeldOut, device: torch.device, own_metrics: OwnMetrics = NO_METRICS
) -> Comparison:
    """Evaluate each of `forwards` on `held_out`: of a recipe, what training is evaluated on.

    No autocast, whatever the recipe's precision: the loss is that of the weights as they are stored. Raises
    NotRetryable("LossNotFinite") if a loss is infinite or not a number.
    """
    size, metric, data = held_out.batch_size, held_out.metric, held_out.data
    num_classes = data.num_classes if metric.accuracy else None
    indices = spread_indices(data.num_validation_samples, held_out.max_samples)
    starts = np.random.default_rng(0).permutation(np.arange(0, len(indices), size))
    losses = [0.0 for _ in forwards]
    told = [None if num_classes is None else torch.zeros(3, num_classes, dtype=torch.float64) for _ in forwards]
    own_sums = [own_metrics.zeros(torch.device("cpu")) for _ in forwards]
    counts = torch.zeros(0, dtype=torch.int64)
    samples = 0
    end = time.monotonic() + EVALUATION_LIMIT_SECONDS
    with phase("Evaluating") as pieces, torch.no_grad():
        for number, start in enumerate(starts):
            if number and time.monotonic() > end:
                print(f"evaluated {samples} of {len(indices)} samples in {EVALUATION_LIMIT_SECONDS:.0f} s", flush=True)
                break
            inputs, targets = data.validation_batch(indices[start : start + size])
            counts = _add(counts, targets)
            samples += len(inputs)
            inputs, targets = inputs.to(device), targets.to(device)
            for which, forward in enumerate(forwards):
                logits = forward(inputs)
                losses[which] += float(loss_sum(logits, targets))
                own_sums[which] += own_metrics.sums(logits, targets).cpu()
                if (counted := told[which]) is not None:
                    counted += class_counts(logits, targets).cpu()
                pieces.done(number, len(starts))
    num_targets = int(counts.sum())
    totals = [Totals(loss, num_targets, counted) for loss, counted in zip(losses, told, strict=True)]
    qualities = tuple(
        Quality(
            loss=each.loss_sum / num_targets,
            accuracy=each.accuracy,
            macro_f1=None if each.class_counts is None else macro_f1(each.class_counts),
            metrics=own_metrics.means(own),
        )
        for each, own in zip(totals, own_sums, strict=True)
    )
    for quality in qualities:
        if not math.isfinite(quality.loss):
            raise NotRetryable(
                "LossNotFinite", f"the validation loss is {quality.loss}, so the variant cannot be compared"
            )
    return Comparison(qualities, metric.target, data.validation_bytes_per_token, _entropy(counts), samples)


def _add(counts: Tensor, targets: Tensor) -> Tensor:
    """`counts` of each target so far, plus those of `targets`."""
    kept = targets.flatten()
    more = torch.bincount(kept[kept != IGNORED_TARGET], minlength=len(counts))
    more[: len(counts)] += counts
    return more


def _entropy(counts: Tensor) -> float:
    """Entropy in nats of the distribution that `counts` are proportional to."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log()).sum())
