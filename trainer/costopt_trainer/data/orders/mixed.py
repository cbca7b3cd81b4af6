"""Samples of several sources by their weights: which sample comes at which position, without state.

Weights         which hold from which position on
weights_over    those of a run, in pieces
Mixed           an order of samples

A binary tree has the sources at its leaves. Each node shares what comes to it among its two sides: the left one gets
the next sample whenever its share, added up, has passed another half. That is how Bresenham's algorithm draws a line
(IBM Systems Journal 4, 1965, https://doi.org/10.1147/sj.41.0025), so that how many of the first n samples went left is
a formula, and no sample has to be looked at before another. A node is at most half a sample away from its plan; with
weights that stay, so a source of S is at most ceil(log2(S)) / 2 samples away from its own, wherever one looks.

Each source has epochs of its own, shuffled as in sampler.py, from a seed of its own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from costopt.schema.mixture import MixtureData
from costopt_trainer.data.sampler import sample_indices

PIECES = 1024
"""Of a run in which weights change linearly: in each they stay, as they are in its middle."""
_MOST = 1 << 30
"""Of a share's denominator: products of two such numbers fit into 64 bits."""


@dataclass(frozen=True)
class Weights:
    """The weights of all sources, from a position on."""

    start: int
    each_S: tuple[int, ...]
    """To each other; not negative, and not all 0."""


def weights_over(mixture: MixtureData, samples: int) -> tuple[Weights, ...]:
    """The weights of a run of so many samples, in order; the first begin at 0, the last hold for ever."""
    sources = mixture.sources
    first = Weights(0, tuple(source.weight for source in sources))
    if mixture.stages:
        stages = sorted(mixture.stages, key=lambda stage: stage.from_percent)
        later = (
            Weights(samples * stage.from_percent // 100, tuple(stage.weights[each.name] for each in sources))
            for stage in stages
        )
        return (first, *later)
    if not mixture.changes:
        return (first,)
    count = min(PIECES, samples)
    starts = [samples * piece // count for piece in range(count + 1)]
    pieces = []
    for start, stop in pairwise(starts):
        done = start + stop  # of twice the samples, in the middle of the piece
        each = (source.weight * (2 * samples - done) + source.last_weight * done for source in sources)
        pieces.append(Weights(start, tuple(each)))
    return tuple(pieces)


class _Split:
    """A node of the tree: how many of the first n samples that come to it go to its left side."""

    def __init__(self, starts: Sequence[int], shares: Sequence[Fraction]) -> None:
        """`starts` are where, in samples that come here, each of the `shares` of the left side begins to hold."""
        whole, part = 0, Fraction(1, 2)
        rows = []
        for place, (start, exact) in enumerate(zip(starts, shares, strict=True)):
            share = exact.limit_denominator(_MOST)
            finer = _MOST // share.denominator  # so that nothing is lost of what was added up by then
            numerator, denominator = share.numerator * finer, share.denominator * finer
            rest = part.numerator * denominator // part.denominator
            rows.append((start, whole, numerator, denominator, rest))
            if place + 1 < len(starts):
                passed = (starts[place + 1] - start) * numerator + rest
                whole += passed // denominator
                part = Fraction(passed % denominator, denominator)
        self._starts, self._wholes, self._numerators, self._denominators, self._rests = np.array(rows, np.int64).T

    def left(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of the first `counts` samples those that go left."""
        piece = np.searchsorted(self._starts, counts, side="right") - 1
        times, over = np.divmod(counts - self._starts[piece], self._denominators[piece])
        parts = over * self._numerators[piece] + self._rests[piece]
        found: NDArray[np.int64] = (
            self._wholes[piece] + times * self._numerators[piece] + parts // self._denominators[piece]
        )
        return found


@dataclass(frozen=True)
class Mixed:
    """An order of the samples of several sources, whose numbers follow on each other."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """Training samples of each source, at least 1 of one that has a weight."""
    weights: tuple[Weights, ...]
    """See `weights_over`."""

    def __call__(self, *, seed: int, position: int, count: int) -> NDArray[np.int64]:
        """Sample numbers at positions [position, position + count) of the stream of `seed`. Costs O(count)."""
        sources, turns = self.drawn(position=position, count=count)
        numbers = np.empty(count, dtype=np.int64)
        for source, (name, size) in enumerate(zip(self.names, self.sizes, strict=True)):
            mine = np.flatnonzero(sources == source)
            if len(mine):
                own = sample_indices(
                    seed=seed_of(seed, name), position=int(turns[mine[0]]), count=len(mine), num_samples=size
                )
                numbers[mine] = sum(self.sizes[:source]) + own
        return numbers

    def epochs(self, *, position: int, count: int) -> NDArray[np.int64]:
        """The epochs of positions, each counted in samples of its own source."""
        sources, turns = self.drawn(position=position, count=count)
        epochs: NDArray[np.int64] = turns // np.maximum(np.array(self.sizes, dtype=np.int64), 1)[sources]
        return epochs

    def drawn(self, *, position: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each position its source, and how many samples were drawn of that one before."""
        if position < 0 or count < 0:
            raise ValueError("position and count must be at least 0")
        places = position + np.arange(count, dtype=np.int64)
        sources, turns = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        waiting = [(0, len(self.names), np.arange(count), places)]
        while waiting:
            first, last, here, counts = waiting.pop()
            if last - first == 1:
                sources[here], turns[here] = first, counts
                continue
            middle, split = (first + last) // 2, self._splits[first, last]
            before = split.left(counts)
            goes_left = split.left(counts + 1) > before
            waiting.append((first, middle, here[goes_left], before[goes_left]))
            waiting.append((middle, last, here[~goes_left], (counts - before)[~goes_left]))
        return sources, turns

    def counts(self, position: int) -> tuple[int, ...]:
        """How many of the first `position` samples are of each source."""
        found, waiting = [0] * len(self.names), [(0, len(self.names), position)]
        while waiting:
            first, last, count = waiting.pop()
            if last - first == 1:
                found[first] = count
                continue
            middle = (first + last) // 2
            left = int(self._splits[first, last].left(np.array([count], dtype=np.int64))[0])
            waiting += [(first, middle, left), (middle, last, count - left)]
        return tuple(found)

    @cached_property
    def _splits(self) -> dict[tuple[int, int], _Split]:
        """The nodes of the tree, by the sources below them: [first, last)."""
        made: dict[tuple[int, int], _Split] = {}
        waiting = [(0, len(self.names), [weights.start for weights in self.weights])]
        while waiting:
            first, last, starts = waiting.pop()
            if last - first == 1:
                continue
            middle = (first + last) // 2
            split = made[first, last] = _Split(
                starts, [_share(each.each_S, first, middle, last) for each in self.weights]
            )
            lefts = split.left(np.array(starts, dtype=np.int64)).tolist()
            waiting.append((first, middle, lefts))
            waiting.append((middle, last, [start - left for start, left in zip(starts, lefts, strict=True)]))
        return made


def _share(each_S: Sequence[int], first: int, middle: int, last: int) -> Fraction:
    whole = sum(each_S[first:last])
    return Fraction(sum(each_S[first:middle]), whole) if whole else Fraction(0)


def seed_of(seed: int, name: str) -> int:
    """The seed of a source: sources of the same size come in other orders, and stay so when others are added."""
    return (seed + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")) % 2**64
