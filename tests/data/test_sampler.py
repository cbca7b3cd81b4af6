"""The stream of sample numbers: epochs are permutations, and only (seed, position) matters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt_trainer.data.sampler import sample_indices

SEEDS = st.integers(0, 2**31 - 1)


def stream(seed: int, position: int, count: int, num_samples: int) -> list[int]:
    return sample_indices(seed=seed, position=position, count=count, num_samples=num_samples).tolist()


@given(SEEDS, st.integers(1, 700), st.integers(0, 10**6))
def test_every_epoch_visits_each_sample_exactly_once(seed: int, num_samples: int, epoch: int) -> None:
    assert sorted(stream(seed, epoch * num_samples, num_samples, num_samples)) == list(range(num_samples))


@given(SEEDS, st.integers(1, 50), st.integers(0, 10**9), st.lists(st.integers(0, 40), max_size=6))
def test_any_slicing_of_the_stream_gives_the_same_stream(
    seed: int, num_samples: int, position: int, counts: list[int]
) -> None:
    whole = stream(seed, position, sum(counts), num_samples)
    parts: list[int] = []
    for count in counts:
        parts += stream(seed, position + len(parts), count, num_samples)
    assert parts == whole


@given(SEEDS, st.integers(1, 5000), st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4, 6]))
def test_the_samples_of_a_step_do_not_depend_on_how_ranks_share_it(
    seed: int, num_samples: int, step: int, ranks: int
) -> None:
    global_batch, share = 12, 12 // ranks
    shares = [stream(seed, step * global_batch + rank * share, share, num_samples) for rank in range(ranks)]
    assert [sample for part in shares for sample in part] == stream(seed, step * global_batch, 12, num_samples)


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = {tuple(stream(seed, epoch * 100, 100, 100)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_stream_is_the_same_on_every_machine_and_version() -> None:
    # Were these to change, a resumed run would see other samples than the run it continues.
    assert stream(1234, 10**12, 4, 10**9) == [788204664, 154722141, 709910065, 814707260]


def test_each_sample_comes_equally_often_at_each_place() -> None:
    places = np.zeros((7, 7), dtype=np.int64)
    epochs = 3500
    numbers = sample_indices(seed=3, position=0, count=7 * epochs, num_samples=7).reshape(epochs, 7)
    for place in range(7):
        places[place] = np.bincount(numbers[:, place], minlength=7)
    # 49 cells, 500 expected in each, standard deviation about 21.
    assert abs(places - 500).max() < 5 * 21


def test_neighbours_of_a_large_epoch_are_not_neighbours_in_the_data() -> None:
    numbers = sample_indices(seed=0, position=0, count=100_000, num_samples=100_000)
    correlation = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
    assert abs(correlation) < 0.02


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"position": -1}, {"count": -1}])
def test_a_stream_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        sample_indices(**{"seed": 0, "position": 0, "count": 1, "num_samples": 1, **wrong})
