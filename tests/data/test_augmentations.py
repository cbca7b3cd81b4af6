"""The table of augmentations: each row changes training samples as a function of seed, epoch and sample alone."""

import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.augmentations import (
    augmentation,
    data_of,
    epoch_of,
    equal,
    settings_of_kind,
    with_augmentations,
)
from costopt.schema.augmentations import Augmentation
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, TEXT, ChangesSamples
from costopt.schema.unions import UNIONS
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.augmentations.draws import Draws
from costopt_trainer.data.augmentations.table import AUGMENTATIONS, augmented
from costopt_trainer.data.training_data import Batch

WORDS = typing.get_args(Augmentation.model_fields["type"].annotation)
PAIRS = [
    (member.word, kind)
    for member in UNIONS[Augmentation]
    if member.settings is not None and issubclass(member.settings, ChangesSamples)
    for kind in member.settings.fits
]
"""Each augmentation with each kind of samples that it fits."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("augmented")


def test_each_word_of_the_manifest_has_a_row_and_says_what_it_fits() -> None:
    assert set(AUGMENTATIONS) == set(WORDS)
    assert {word for word, _ in PAIRS} == set(WORDS)


@pytest.mark.parametrize(("word", "kind"), PAIRS)
def test_a_sample_is_the_same_in_any_batch_and_other_in_another_epoch_or_of_another_seed(
    word: str, kind: str, folder: Path
) -> None:
    data = data_of(kind, folder / kind, augmentation(word))
    whole = epoch_of(data, epoch=3)
    assert equal(whole, epoch_of(data, epoch=3)), "each time the same"
    assert not torch.equal(whole[0], epoch_of(data, epoch=4)[0])
    assert not torch.equal(whole[0], epoch_of(data, epoch=3, seed=6)[0])

    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, data.num_train_samples - 1), min_size=1, max_size=9))
    def in_any_batch(samples: list[int]) -> None:
        part = epoch_of(data, epoch=3, samples=samples)
        assert equal(part, (whole[0][samples], whole[1][samples]))

    in_any_batch()


@pytest.mark.parametrize(("word", "kind"), PAIRS)
def test_shapes_types_ranges_and_targets_stay_and_so_do_held_out_samples(word: str, kind: str, folder: Path) -> None:
    plain, data = data_of(kind, folder / kind), data_of(kind, folder / kind, augmentation(word))
    before, after = epoch_of(plain), epoch_of(data)
    assert (after[0].dtype, after[0].shape) == (before[0].dtype, before[0].shape)
    assert torch.equal(after[1], before[1]), "targets are never changed"
    assert not torch.equal(after[0], before[0])
    if kind == IMAGES:
        assert after[0].abs().max() <= 1
    else:
        assert data.vocabulary_size is not None
        assert 0 <= after[0].min() <= after[0].max() < data.vocabulary_size
    numbers = np.arange(data.num_validation_samples)
    assert equal(data.validation_batch(numbers), plain.validation_batch(numbers))
    assert equal(data.train_batch(numbers), plain.train_batch(numbers))
    assert data.fingerprint == plain.fingerprint
    [note] = [note for note in data.notes if note not in plain.notes]
    assert note.startswith(f"training samples are augmented by {word}")


@pytest.mark.parametrize("kind", [TEXT, LABELLED_TEXT, IMAGES])
def test_the_number_of_ranks_a_resume_and_torchs_own_random_numbers_change_nothing(kind: str, folder: Path) -> None:
    chain = [augmentation(word) for word, fits in PAIRS if fits == kind]
    data = data_of(kind, folder / kind, *chain)
    start, count = data.num_train_samples - 6, 12  # over the end of an epoch
    torch.manual_seed(1)
    state = torch.get_rng_state()
    [whole] = data.train_batches(seed=1, position=start, count=count, batch_size=count)
    assert torch.equal(torch.get_rng_state(), state), "dropout draws what it would have drawn"
    torch.manual_seed(2)
    parts = [
        batch
        for rank in range(3)
        for batch in data.train_batches(seed=1, position=start + 4 * rank, count=4, batch_size=2)
    ]
    assert equal((torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])), whole)


def test_the_same_augmentation_twice_draws_twice_and_the_order_counts(folder: Path) -> None:
    once, twice = (data_of(TEXT, folder / TEXT, *[augmentation("TokenDropout", percent=50)] * n) for n in (1, 2))
    plain = epoch_of(data_of(TEXT, folder / TEXT))[0]
    shares = [(epoch_of(data)[0] == plain).float().mean().item() for data in (once, twice)]
    assert shares == pytest.approx([0.5, 0.25], abs=0.03)


class Negative:
    """What a new row would name."""

    def __init__(self, _settings: object, _data: TrainingData) -> None:
        pass

    def __call__(self, batch: Batch, _draws: Draws) -> Batch:
        return -batch[0], batch[1]


def test_a_new_row_is_all_that_a_new_augmentation_needs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(AUGMENTATIONS, "Noise", f"{__name__}:Negative")
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(Negative=Negative))
    data = data_of(IMAGES, folder / IMAGES, augmentation("Noise"))
    assert torch.equal(epoch_of(data)[0], -data.train_batch(np.arange(data.num_train_samples))[0])


def test_without_augmentations_nothing_changes(folder: Path) -> None:
    plain = with_augmentations(settings_of_kind(TEXT, folder / TEXT))
    data = load_data(plain, context_length=20, cache_dir=folder / TEXT / "cache")
    assert data.batch_of_epoch is None
    assert augmented(data, []) is data


def test_draws_are_spread_as_they_say() -> None:
    draws = Draws.of(3, np.zeros(50, np.int64), np.arange(50), 0)
    units, normal, whole = draws.units("a", 40, 50), draws.normal("a", 40, 50), draws.whole("a", 7, 40, 50)
    assert (units.mean(), units.min() >= 0, units.max() < 1) == (pytest.approx(0.5, abs=0.01), True, True)
    assert (normal.mean(), normal.std()) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))
    assert np.bincount(whole.ravel()) / whole.size == pytest.approx(np.full(7, 1 / 7), abs=0.01)
    assert not np.array_equal(units, draws.units("b", 40, 50)), "each purpose has its own"
    for row in (0, 7):
        assert np.array_equal(draws.of_sample(row).normal("a", 40, 50)[0], normal[row])
    neighbours = np.corrcoef(units.reshape(50, -1))
    assert np.abs(neighbours - np.eye(50)).max() < 0.12, "samples draw independently"
