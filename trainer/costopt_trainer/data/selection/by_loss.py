"""The samples of a share of the losses: the hardest, the easiest, or those between.

Which share helps depends on how much data there is: hard samples where there is plenty, easy ones where there is
little (Sorscher et al. 2022), and those between where the hardest are mostly noise (Marion et al. 2023).

by_loss              by the losses of a reference
by_own_loss          by those of the training itself, which were told one after another
losses_of            of a reference; easiest_first: the samples in the order of their losses
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from costopt.schema.selection import LossSelection, Selection
from costopt_trainer.data.selection.bigram import Bigram
from costopt_trainer.data.selection.samples import Samples
from costopt_trainer.data.selection.stratified import shares
from costopt_trainer.errors import NotRetryable

Keep = Literal["Highest", "Middle", "Lowest"]


def by_loss(samples: Samples, settings: Selection, count: int) -> NDArray[np.int64]:
    """`count` samples, as `settings.loss.keep` says."""
    return _share(losses_of(samples), (settings.loss or LossSelection()).keep, count)


def by_own_loss(losses_P: NDArray[np.float32], keep: Keep, count: int, stretch: int) -> NDArray[np.int64]:
    """Which `count` of the places (P,) are kept; each had its loss when the training came there.

    Of each `stretch` of places the same share: a loss that was told early is higher because the model was worse.
    """
    stretch_P = np.arange(len(losses_P), dtype=np.int64) // stretch
    shares_S = shares(np.bincount(stretch_P), count).tolist()
    starts = range(0, len(losses_P), stretch)
    return np.concatenate(
        [
            start + _share(losses_P[start : start + stretch], keep, own)
            for start, own in zip(starts, shares_S, strict=True)
        ]
    )


def _share(losses_N: NDArray[Any], keep: Keep, count: int) -> NDArray[np.int64]:
    start = {"Lowest": 0, "Middle": (len(losses_N) - count) // 2, "Highest": len(losses_N) - count}[keep]
    return easiest_first(losses_N)[start : start + count]


def losses_of(samples: Samples) -> NDArray[np.float64]:
    """The loss of every sample by the reference, float64 (N,). Raises NotRetryable if one is no number."""
    losses_N: NDArray[np.float64] = samples.each(samples.losses or Bigram(samples).losses)
    if not np.isfinite(losses_N).all():
        raise NotRetryable(
            "InvalidData",
            "the reference of data.selection or data.order must give every sample a finite loss, but gives training "
            f"sample {int(np.argmin(np.isfinite(losses_N)))} another",
        )
    return losses_N


def easiest_first(losses_N: NDArray[Any]) -> NDArray[np.int64]:
    """The numbers of all samples, by their losses; of equal ones the lower number first."""
    return np.argsort(losses_N, kind="stable").astype(np.int64)
