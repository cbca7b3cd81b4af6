"""The order of samples in lanes: each lane reads on, nothing comes twice, and only (seed, position) matters."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from costopt_trainer.data.lanes import lane_begins, lane_indices
from costopt_trainer.data.training_data import TrainingData
from costopt_trainer.errors import NotRetryable

SEEDS = st.integers(0, 2**31 - 1)
LANES = st.integers(1, 24)


def stream(seed: int, position: int, count: int, num_samples: int, lanes: int) -> list[int]:
    return lane_indices(seed=seed, position=position, count=count, num_samples=num_samples, lanes=lanes).tolist()


@given(SEEDS, LANES, st.integers(0, 300), st.integers(0, 10**6), st.integers(1, 200))
def test_each_lane_reads_on_unless_it_begins_anew(seed: int, lanes: int, more: int, step: int, steps: int) -> None:
    place = {"num_samples": lanes + more, "lanes": lanes, "seed": seed}
    here = lane_indices(position=step * lanes, count=steps * lanes, **place)
    following = lane_indices(position=(step + 1) * lanes, count=steps * lanes, **place)
    begins = lane_begins(position=(step + 1) * lanes, count=steps * lanes, **place)
    assert np.array_equal(following[~begins], here[~begins] + 1)
    length = place["num_samples"] // lanes
    of_epochs = np.arange(step + 1, step + 1 + steps) % length == 0
    assert begins.reshape(steps, lanes)[of_epochs].all(), "all begin anew with an epoch"
    assert begins.reshape(steps, lanes)[~of_epochs].sum() <= steps / length + 2, "else only where the text begins"


@given(SEEDS, LANES, st.integers(0, 300), st.integers(0, 10**6))
def test_an_epoch_reads_nothing_twice_and_leaves_out_fewer_samples_than_lanes(
    seed: int, lanes: int, more: int, epoch: int
) -> None:
    num_samples = lanes + more
    size = num_samples // lanes * lanes
    read = stream(seed, epoch * size, size, num_samples, lanes)
    assert len(set(read)) == size > num_samples - lanes
    assert set(read) <= set(range(num_samples))


@given(SEEDS, LANES, st.integers(0, 50), st.integers(0, 10**9), st.lists(st.integers(0, 40), max_size=6))
def test_any_slicing_of_the_stream_gives_the_same_stream(
    seed: int, lanes: int, more: int, position: int, counts: list[int]
) -> None:
    whole = stream(seed, position, sum(counts), lanes + more, lanes)
    parts: list[int] = []
    for count in counts:
        parts += stream(seed, position + len(parts), count, lanes + more, lanes)
    assert parts == whole


@given(SEEDS, st.integers(0, 5000), st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4, 6]), st.sampled_from([1, 2, 4]))
def test_the_lanes_of_a_step_do_not_depend_on_ranks_or_micro_batches(
    seed: int, more: int, step: int, ranks: int, size: int
) -> None:
    data, share = numbered(12 + more).in_lanes(12), 12 // ranks
    size = math.gcd(size, share)
    read: list[int] = []
    for rank in range(ranks):
        position = step * 12 + rank * share
        batches = data.train_batches(seed=seed, position=position, count=share, batch_size=size)
        assert [len(inputs) for inputs, _ in batches] == [size] * (share // size)
        read += [int(number) for inputs, _ in batches for number in inputs]
    assert read == stream(seed, step * 12, 12, 12 + more, 12)


def test_epochs_and_seeds_cut_the_text_elsewhere() -> None:
    firsts = {stream(seed, epoch * 1000, 1, 1003, 8)[0] for seed in range(5) for epoch in range(5)}
    assert len(firsts) > 20
    left_out = {number for epoch in range(3000) for number in {*range(11)} - {*stream(1, epoch * 8, 8, 11, 4)}}
    assert left_out == {*range(11)}, "what is left out of one epoch is in another"


def test_the_stream_is_the_same_on_every_machine_and_version() -> None:
    # Were these to change, a resumed run would see other samples than the run it continues.
    assert stream(1234, 10**12, 3, 10**9, 7) == [953319182, 96176324, 239033466]


def test_a_text_must_be_as_long_as_there_are_lanes() -> None:
    with pytest.raises(NotRetryable, match=r"batch.globalBatchSize contexts, 8, .* but gives 7: give more"):
        numbered(7).in_lanes(8)
    assert numbered(8).in_lanes(8).notes == ("8 sequences are read side by side, 1 contexts of each in an epoch",)
    assert "; 5 of 21 contexts are left out, others in each epoch" in numbered(21).in_lanes(8).notes[0]


@pytest.mark.parametrize("wrong", [{"num_samples": 2}, {"lanes": 0}, {"position": -1}, {"count": -1}])
def test_an_order_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        lane_indices(**{"seed": 0, "position": 0, "count": 1, "num_samples": 3, "lanes": 3, **wrong})


def numbered(count: int) -> TrainingData:
    """Samples that are their numbers."""

    def batch(indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(indices), torch.from_numpy(indices)

    return TrainingData(count, 1, 1, train_batch=batch, validation_batch=batch, fingerprint="")
