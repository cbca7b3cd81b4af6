"""The same share of each stratum: of each class; of text, of each hundred samples that follow one another.

A text lies in the order of its files, so that each file keeps its share to within a sample or two.
"""

import numpy as np
from numpy.typing import NDArray

from costopt.schema.selection import Selection
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.selection.samples import Samples

STRETCH = 100
"""Samples of a text that are one stratum: a whole percent of them is a whole number."""


def stratified(samples: Samples, _settings: Selection, count: int) -> NDArray[np.int64]:
    """`count` samples, of each stratum its share to within one."""
    if samples.classes is None:
        strata_N = np.arange(samples.count, dtype=np.int64) // STRETCH
    else:
        strata_N = samples.each(lambda batch: batch[1].numpy())
    return drawn(strata_N, shares(np.bincount(strata_N), count), samples.seed)


def shares(sizes_S: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` shared out among strata of these sizes, int64 (S,): each its exact share rounded down or up, those with
    the largest remainders up (Hamilton's method)."""
    exact_S = sizes_S * count  # over the sum of the sizes
    total = int(sizes_S.sum())
    shares_S, left_S = exact_S // total, exact_S % total
    missing = count - int(shares_S.sum())
    shares_S[np.argsort(-left_S, kind="stable")[:missing]] += 1
    return shares_S


def drawn(strata_N: NDArray[np.int64], shares_S: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The numbers of samples drawn from each stratum, as many as its share: the first in a shuffled order."""
    order_N = sample_indices(seed=seed, position=0, count=len(strata_N), num_samples=len(strata_N))
    order_N = order_N[np.argsort(strata_N[order_N], kind="stable")]
    sizes_S = np.bincount(strata_N, minlength=len(shares_S))
    rank_N = np.arange(len(order_N)) - np.repeat(np.cumsum(sizes_S) - sizes_S, sizes_S)
    chosen: NDArray[np.int64] = order_N[rank_N < np.repeat(shares_S, sizes_S)]
    return chosen
