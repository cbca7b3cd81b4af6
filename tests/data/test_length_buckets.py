"""Samples of like length in one batch: epochs stay whole, batches become alike, and only (seed, position) matters."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from costopt_trainer.data.orders.length_buckets import LengthBuckets
from costopt_trainer.data.orders.table import sorted_by
from costopt_trainer.data.sampler import sample_indices

SEEDS = st.integers(0, 2**31 - 1)
ORDERS = st.builds(
    lambda batch, more, batches, seed: LengthBuckets(
        np.random.default_rng(seed).permutation(batch + more), batch, batches
    ),
    st.integers(1, 12),
    st.integers(0, 200),
    st.integers(2, 9),
    st.integers(0, 99),
)


@given(SEEDS, ORDERS, st.integers(0, 10**6))
def test_every_epoch_has_each_sample_once(seed: int, order: LengthBuckets, epoch: int) -> None:
    count = len(order.ranks_N)
    numbers = order(seed=seed, position=epoch * count, count=count)
    assert sorted(numbers.tolist()) == list(range(count))
    assert set(order.epochs(position=epoch * count, count=count).tolist()) == {epoch}


@given(SEEDS, ORDERS, st.integers(0, 10**6), st.lists(st.integers(0, 40), max_size=8))
def test_any_slicing_of_the_stream_gives_the_same_stream(
    seed: int, order: LengthBuckets, position: int, counts: list[int]
) -> None:
    parts = [np.empty(0, dtype=np.int64)]
    for count in counts:
        parts.append(order(seed=seed, position=position + sum(map(len, parts)), count=count))
    assert np.array_equal(np.concatenate(parts), order(seed=seed, position=position, count=sum(counts)))


@given(SEEDS, st.integers(1, 12), st.integers(2, 9), st.integers(0, 3))
def test_steps_of_a_stretch_share_out_its_sorted_samples(seed: int, size: int, batches: int, number: int) -> None:
    count = size * batches * 4
    ranks = np.random.default_rng(seed).permutation(count)
    order, place = LengthBuckets(ranks, size, batches), number * size * batches
    numbers = order(seed=seed, position=place, count=size * batches)
    own = sample_indices(seed=seed, position=place, count=size * batches, num_samples=count)
    assert sorted(numbers.tolist()) == sorted(own.tolist()), "what the shuffled stream has there"
    spans = sorted((ranks[part].min(), ranks[part].max()) for part in numbers.reshape(-1, size))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_short_batches_come_anywhere() -> None:
    order = LengthBuckets(np.arange(1600), 10, 16)
    means = [order(seed=seed, position=0, count=160).reshape(16, 10).mean(axis=1) for seed in range(200)]
    first = np.argmin(means, axis=1)
    assert len(set(first.tolist())) == 16
    assert np.bincount(first, minlength=16).max() < 40, "12.5 expected"


def test_documents_of_one_length_do_not_come_class_by_class_from_a_file_that_is_sorted_so() -> None:
    classes = np.repeat(np.arange(4), 256)
    order = LengthBuckets(np.argsort(sorted_by(np.full(len(classes), 64.0))), 16, 8)
    batches = classes[order(seed=3, position=0, count=len(classes))].reshape(-1, 16)
    fullest = [np.bincount(batch).max() for batch in batches]
    assert np.mean(fullest) < 8, "of 16 samples of 4 classes some 6.5 are expected of the most frequent one"


def test_samples_are_sorted_by_their_figures_and_equal_ones_not_by_their_numbers() -> None:
    figures = np.array([1.0] * 1000 + [0.0, 2.0])
    found = sorted_by(figures).tolist()
    assert (found[0], found[-1]) == (1000, 1001)
    assert sorted(found[1:-1]) == list(range(1000))
    assert 200 < sum(number < 500 for number in found[1:501]) < 300, "250 expected"
    assert found == sorted_by(figures).tolist()


def test_the_stream_is_the_same_on_every_machine_and_version() -> None:
    # Were these to change, a resumed run would see other samples than the run it continues.
    order = LengthBuckets(np.arange(10**5), 8, 4)
    assert order(seed=1234, position=10**12, count=4).tolist() == [25560, 26779, 27952, 30356]
