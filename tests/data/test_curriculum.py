"""Easy samples first: never beyond the share of a step, nothing twice in a step, then whole epochs, without state."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from costopt_trainer.data.orders.curriculum import Curriculum
from costopt_trainer.data.training_data import TrainingData

SEEDS = st.integers(0, 2**31 - 1)
ORDERS = st.builds(
    lambda batch, more, steps, start, seed: Curriculum(
        np.random.default_rng(seed).permutation(batch + more), batch, steps, start
    ),
    st.integers(1, 12),
    st.integers(0, 200),
    st.integers(1, 40),
    st.integers(1, 100),
    st.integers(0, 99),
)


@given(SEEDS, ORDERS)
def test_a_step_draws_from_its_share_of_the_easiest_and_none_twice(seed: int, order: Curriculum) -> None:
    size, pools = order.batch_size, [order.pool(step) for step in range(order.steps + 1)]
    assert pools == sorted(pools)
    assert pools[-1] == len(order.easiest_N)
    assert pools[0] <= max(size, len(order.easiest_N) * order.start_percent / 100 + 1)
    rank = np.argsort(order.easiest_N)
    numbers = order(seed=seed, position=0, count=order.steps * size).reshape(-1, size)
    for step, own in enumerate(numbers):
        assert rank[own].max() < pools[step]
        assert len(set(own.tolist())) == size


@given(SEEDS, ORDERS, st.integers(0, 10**6))
def test_behind_it_each_epoch_has_every_sample_once(seed: int, order: Curriculum, epoch: int) -> None:
    count = len(order.easiest_N)
    position = order.steps * order.batch_size + epoch * count
    assert sorted(order(seed=seed, position=position, count=count).tolist()) == list(range(count))
    epochs = order.epochs(position=position, count=count)
    assert epochs.min() == epochs.max() == order.steps + epoch


@given(SEEDS, ORDERS, st.integers(0, 500), st.lists(st.integers(0, 40), max_size=8))
def test_any_slicing_of_the_stream_gives_the_same_stream(
    seed: int, order: Curriculum, position: int, counts: list[int]
) -> None:
    parts = [np.empty(0, dtype=np.int64)]
    for count in counts:
        parts.append(order(seed=seed, position=position + sum(map(len, parts)), count=count))
    assert np.array_equal(np.concatenate(parts), order(seed=seed, position=position, count=sum(counts)))


def test_the_share_grows_with_the_root_of_the_steps() -> None:
    order = Curriculum(np.arange(10_000), 1, 100, 10)
    # Platanios et al. (2019), equation 9 with p = 2: c(t) = sqrt(t (1 - c0^2) / T + c0^2)
    assert [order.pool(step) for step in (0, 25, 100, 10**6)] == [1000, 5075, 10_000, 10_000]


def test_the_stream_is_the_same_on_every_machine_and_version() -> None:
    # Were these to change, a resumed run would see other samples than the run it continues.
    order = Curriculum(np.arange(10**6), 8, 1000, 10)
    assert order(seed=1234, position=7 * 8 + 6, count=4).tolist() == [23913, 24040, 76609, 82858]
    assert order(seed=1234, position=10**12, count=2).tolist() == [251769, 729658]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_and_micro_batches_share_the_stream(ranks: int) -> None:
    def batch(indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(indices), torch.from_numpy(indices)

    order = Curriculum(np.random.default_rng(0).permutation(100), 12, 5, 20)
    data = TrainingData(
        100,
        1,
        1,
        train_batch=batch,
        validation_batch=batch,
        fingerprint="",
        batch_of_epoch=lambda numbers, epochs, _: (torch.from_numpy(numbers), torch.from_numpy(epochs)),
    ).in_order(order, "easy")
    share = 12 // ranks
    for step in range(16):
        read = [
            torch.stack(part)
            for rank in range(ranks)
            for part in data.train_batches(seed=5, position=step * 12 + rank * share, count=share, batch_size=2)
        ]
        numbers, epochs = torch.cat(read, dim=1).numpy()
        assert np.array_equal(numbers, order(seed=5, position=step * 12, count=12))
        assert np.array_equal(epochs, order.epochs(position=step * 12, count=12))
