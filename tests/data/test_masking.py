"""Masked text: which tokens are hidden is a function of seed, epoch and sample, and as many as BERT hides."""

from pathlib import Path

import numpy as np
import pytest
import torch

from builders.data import text_settings
from costopt.schema.data import Tokenizer
from costopt.schema.data_kinds import MASKED_TEXT, TEXT
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.masking import Masking
from costopt_trainer.data.training_data import IGNORED_TARGET
from costopt_trainer.errors import NotRetryable

MASK, PAD = 257, 256


@pytest.fixture
def masked(tmp_path: Path) -> TrainingData:
    (tmp_path / "a.txt").write_text("".join(f"Zeile {number}: grüß Gott\n" for number in range(300)), encoding="utf-8")
    return load_data(text_settings(tmp_path), context_length=20, cache_dir=tmp_path / "cache", reads=MASKED_TEXT)


def test_of_the_tokens_of_each_sample_fifteen_percent_are_targets() -> None:
    tokens = np.random.default_rng(0).integers(0, 256, (4000, 20))
    inputs, targets = Masking(MASK, 256)(tokens, np.arange(4000), np.zeros(4000, dtype=np.int64), seed=0)
    chosen = targets != IGNORED_TARGET
    assert (chosen.sum(dim=1) == 3).all(), "as many in each"
    original = torch.from_numpy(tokens)
    assert torch.equal(inputs[~chosen], original[~chosen]), "all others stay"
    assert torch.equal(targets[chosen], original[chosen])
    of = chosen.sum()
    hidden, other = (inputs[chosen] == MASK).sum() / of, (inputs[chosen] != original[chosen]).sum() / of
    assert hidden == pytest.approx(0.8, abs=0.015)
    assert other - hidden == pytest.approx(0.1, abs=0.01)
    assert inputs[chosen & (inputs != MASK)].max() < 256
    assert chosen.float().mean(dim=0).numpy() == pytest.approx(np.full(20, 0.15), abs=0.025), "anywhere in a sample"


def test_special_tokens_are_never_targets() -> None:
    tokens = np.arange(40).reshape(2, 20) % 10
    _, targets = Masking(MASK, 256, kept=(0, 1, 2, 3, 4, 5, 6, 7, 8))(tokens, np.arange(2), np.zeros(2, np.int64), 0)
    assert set(targets[targets != IGNORED_TARGET].tolist()) <= {9}
    _, none = Masking(MASK, 256, kept=tuple(range(10)))(tokens, np.arange(2), np.zeros(2, np.int64), seed=0)
    assert (none == IGNORED_TARGET).all()


def test_a_short_sample_still_has_a_target() -> None:
    _, targets = Masking(MASK, 256)(np.zeros((5, 2), dtype=np.int64), np.arange(5), np.zeros(5, np.int64), seed=0)
    assert ((targets != IGNORED_TARGET).sum(dim=1) == 1).all()


def test_each_epoch_and_each_seed_hides_others_and_each_time_the_same(masked: TrainingData) -> None:
    size = masked.num_train_samples
    whole = masked.train_batches(seed=5, position=0, count=2 * size, batch_size=2 * size)[0]
    again = masked.train_batches(seed=5, position=0, count=2 * size, batch_size=2 * size)[0]
    assert all(torch.equal(one, two) for one, two in zip(whole, again, strict=True))
    (first, first_targets), (second, second_targets) = (
        masked.batch_of_epoch(np.arange(size), np.full(size, epoch), 5)  # type: ignore[misc]
        for epoch in (0, 1)
    )
    where_first, where_second = first_targets != IGNORED_TARGET, second_targets != IGNORED_TARGET
    assert (where_first & where_second).float().mean() < 0.05
    assert torch.equal(
        torch.where(where_first, first_targets, first), torch.where(where_second, second_targets, second)
    )
    other, _ = masked.batch_of_epoch(np.arange(size), np.zeros(size, np.int64), 6)  # type: ignore[misc]
    assert not torch.equal(other, first)


def test_the_number_of_ranks_and_a_resume_change_nothing(masked: TrainingData) -> None:
    of = masked.num_train_samples
    start, count = of - 6, 12  # over the end of an epoch
    [(inputs, targets)] = masked.train_batches(seed=1, position=start, count=count, batch_size=count)
    parts = [
        batch
        for rank in range(3)
        for batch in masked.train_batches(seed=1, position=start + 4 * rank, count=4, batch_size=2)
    ]
    assert torch.equal(torch.cat([part for part, _ in parts]), inputs)
    assert torch.equal(torch.cat([part for _, part in parts]), targets)


def test_held_out_text_is_always_hidden_in_the_same_places(masked: TrainingData) -> None:
    numbers = np.arange(masked.num_validation_samples)
    inputs, targets = masked.validation_batch(numbers)
    assert (inputs == MASK).any()
    again, _ = masked.validation_batch(numbers[::-1].copy())
    assert torch.equal(inputs.flip(0), again), "whatever the batch"
    assert torch.equal(
        inputs[targets == IGNORED_TARGET], masked.validation_batch(numbers)[0][targets == IGNORED_TARGET]
    )


def test_masked_text_is_other_data_than_the_text_but_shares_its_tokens(masked: TrainingData, tmp_path: Path) -> None:
    made = sorted(path.name for path in (tmp_path / "cache").iterdir())
    plain = load_data(text_settings(tmp_path), context_length=20, cache_dir=tmp_path / "cache", reads=TEXT)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == made
    assert masked.fingerprint != plain.fingerprint
    assert (masked.vocabulary_size, masked.pad_id, plain.vocabulary_size, plain.pad_id) == (259, PAD, 256, None)
    assert masked.validation_bytes_per_token is None
    assert masked.reference_entropies == {}
    assert masked.num_train_samples >= plain.num_train_samples
    [(inputs, _)] = plain.train_batches(seed=0, position=0, count=4, batch_size=4)
    assert inputs.max() < 256


def test_byte_pairs_are_hidden_behind_a_token_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question\n" * 200, encoding="utf-8")
    settings = text_settings(tmp_path, tokenizer=Tokenizer(type="BPE", vocabulary_size=280))
    data = load_data(settings, context_length=8, cache_dir=tmp_path / "cache", reads=MASKED_TEXT)
    assert data.vocabulary_size is not None
    inputs, _ = data.train_batch(np.arange(data.num_train_samples))
    assert inputs.max() == data.vocabulary_size - 2
    assert data.pad_id == data.vocabulary_size - 3


def test_a_text_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 40)
    with pytest.raises(
        NotRetryable, match=r"must give at least 32 tokens \(contextLength 32\) to the validation split"
    ):
        load_data(text_settings(tmp_path), context_length=32, cache_dir=tmp_path / "cache", reads=MASKED_TEXT)
