"""Samples that stand for the others: spread over the space of their embeddings.

k_center     the farthest sample comes next: greedy k-centre (Gonzalez 1985), as a core-set (Sener and Savarese,
             arXiv 1708.00489); at most twice the distance of the best choice
k_means      Lloyd's algorithm, from k-means++ (Arthur and Vassilvitskii 2007)

Shape suffixes: N = samples, D = dimensions, K = clusters.
"""

import numpy as np
from numpy.typing import NDArray

from costopt.schema.selection import RepresentativeSelection, Selection
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.selection.embeddings import embedded
from costopt_trainer.data.selection.samples import Samples
from costopt_trainer.data.selection.stratified import drawn, shares

PART = 4096
"""Samples among which the farthest is looked for: it takes the square of them. Each part is drawn from all."""
LEARNED_FROM = 16384
"""Samples that k-means learns from; all are told by what it has learned."""
ITERATIONS = 20


def representative(samples: Samples, settings: Selection, count: int) -> NDArray[np.int64]:
    """`count` samples by `settings.representative`."""
    own = settings.representative or RepresentativeSelection()
    order_N = sample_indices(seed=samples.seed, position=0, count=samples.count, num_samples=samples.count)
    if own.method == "Clusters":
        return _of_clusters(samples, order_N, own.clusters, count)
    return _of_parts(samples, order_N, count)


def _of_parts(samples: Samples, order_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    parts = [order_N[start : start + PART] for start in range(0, len(order_N), PART)]
    chosen = []
    for part, share in zip(parts, shares(np.array([len(part) for part in parts]), count).tolist(), strict=True):
        vectors_ND = np.concatenate([embedded(samples, batch) for batch in samples.blocks(part)])
        chosen.append(part[k_center(vectors_ND, share)])
    return np.concatenate(chosen)


def k_center(vectors_ND: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The numbers of `count` of the vectors, from the first on each the farthest from all before it."""
    chosen = np.zeros(count, dtype=np.int64)
    nearest_N = np.full(len(vectors_ND), np.inf, dtype=np.float32)
    squares_N = (vectors_ND**2).sum(axis=1)
    for place in range(count):
        number = chosen[place] = 0 if place == 0 else int(np.argmax(nearest_N))
        distances_N = np.maximum(squares_N + squares_N[number] - 2 * (vectors_ND @ vectors_ND[number]), 0)
        nearest_N = np.minimum(nearest_N, distances_N)
        nearest_N[number] = -1  # equal ones too come once
    return chosen


def _of_clusters(samples: Samples, order_N: NDArray[np.int64], clusters: int, count: int) -> NDArray[np.int64]:
    learned_ND = np.concatenate([embedded(samples, batch) for batch in samples.blocks(order_N[:LEARNED_FROM])])
    centers_KD = k_means(learned_ND, min(clusters, len(learned_ND)), samples.seed)
    cluster_N = samples.each(lambda batch: nearest(embedded(samples, batch), centers_KD))
    return drawn(cluster_N, equal_shares(np.bincount(cluster_N), count), samples.seed)


def k_means(vectors_ND: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.float32]:
    """The centres of clusters, float32 (K, D)."""
    source = np.random.default_rng(seed)
    centers_KD = vectors_ND[[int(source.integers(len(vectors_ND)))]]
    distances_N = ((vectors_ND - centers_KD[0]) ** 2).sum(axis=1, dtype=np.float64)
    for _ in range(clusters - 1):
        total = distances_N.sum()
        if total <= 0:  # fewer different vectors than clusters
            break
        next_D = vectors_ND[int(source.choice(len(vectors_ND), p=distances_N / total))]
        centers_KD = np.vstack([centers_KD, next_D])
        distances_N = np.minimum(distances_N, ((vectors_ND - next_D) ** 2).sum(axis=1, dtype=np.float64))
    for _ in range(ITERATIONS):
        cluster_N = nearest(vectors_ND, centers_KD)
        sizes_K = np.bincount(cluster_N, minlength=len(centers_KD))
        sums_KD = np.zeros(centers_KD.shape, dtype=np.float64)
        np.add.at(sums_KD, cluster_N, vectors_ND)
        moved_KD = np.where(sizes_K[:, np.newaxis] > 0, sums_KD / np.maximum(sizes_K, 1)[:, np.newaxis], centers_KD)
        centers_KD = moved_KD.astype(np.float32)
    return centers_KD


def nearest(vectors_ND: NDArray[np.float32], centers_KD: NDArray[np.float32]) -> NDArray[np.int64]:
    """The number of the nearest centre, int64 (N,)."""
    distances_NK = (centers_KD**2).sum(axis=1) - 2 * vectors_ND @ centers_KD.T
    return distances_NK.argmin(axis=1).astype(np.int64)


def equal_shares(sizes_K: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` shared out equally, int64 (K,), none more than its size: what small ones lack, larger ones give."""
    shares_K = np.zeros(len(sizes_K), dtype=np.int64)
    left, open_ = count, len(sizes_K)
    for number in np.argsort(sizes_K, kind="stable"):
        shares_K[number] = min(int(sizes_K[number]), left // open_)
        left, open_ = left - int(shares_K[number]), open_ - 1
    return shares_K
