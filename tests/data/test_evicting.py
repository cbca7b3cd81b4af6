"""Earlier data goes from the cache as `data.cache` says, and nothing that is in use."""

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.data import text_settings
from costopt import caches
from costopt.schema.data_cache import CacheLimits
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.selection.numbers import open_numbers

ALL = CacheLimits(max_bytes=0)


def loaded(folder: Path, sign: str, limits: CacheLimits | None = None) -> TrainingData:
    (folder / f"{sign}.txt").write_text(sign * 2000)
    settings = text_settings(folder / f"{sign}.txt").model_copy(update={"cache": limits})
    return load_data(settings, context_length=8, cache_dir=folder / "cache")


def let_go_of_all(folder: Path) -> list[str]:
    """As if the processes that use them had ended; the names of the caches."""
    found = caches.caches_in(folder / "cache")
    for cache in found:
        caches.let_go(cache.folder / cache.name)
    return [cache.name for cache in found]


def names(folder: Path) -> list[str]:
    return [cache.name for cache in caches.caches_in(folder / "cache")]


def test_what_no_process_uses_goes_once_a_job_has_its_own(tmp_path: Path) -> None:
    loaded(tmp_path, "a")
    (earlier,) = let_go_of_all(tmp_path)
    data = loaded(tmp_path, "b", ALL)
    assert earlier not in names(tmp_path)
    assert len(names(tmp_path)) == 1, "its own is in use"
    assert data.notes[-1].startswith("1 caches of ")
    assert data.train_batch(np.arange(3))[0].eq(ord("b")).all()


def test_what_another_job_uses_stays(tmp_path: Path) -> None:
    data = loaded(tmp_path, "a")
    (earlier,) = let_go_of_all(tmp_path)
    with (tmp_path / "cache" / f".{earlier}.used").open("rb") as other_job:
        fcntl.flock(other_job, fcntl.LOCK_SH)
        assert "removed" not in loaded(tmp_path, "b", ALL).notes[-1]
        assert earlier in names(tmp_path)
    assert torch.equal(loaded(tmp_path, "a").train_batch(np.arange(3))[0], data.train_batch(np.arange(3))[0])


def test_what_is_in_use_keeps_no_file_open_for_writing(tmp_path: Path) -> None:
    """Else nobody could make the volume read-only, and a job would be told so only at its next checkpoint."""
    data = loaded(tmp_path, "a")
    (cache,) = names(tmp_path)
    open_files = {Path(link).resolve(): int(link.name) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    ours = {path: number for path, number in open_files.items() if tmp_path in path.parents}
    assert tmp_path / "cache" / f".{cache}.used" in ours
    assert {fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE for number in ours.values()} == {os.O_RDONLY}
    assert data.num_train_samples


def test_by_age_goes_what_was_not_used_for_days(tmp_path: Path) -> None:
    loaded(tmp_path, "a")
    loaded(tmp_path, "b")
    old, young = let_go_of_all(tmp_path)
    os.utime(tmp_path / "cache" / f".{old}.used", (0, 0))
    loaded(tmp_path, "c", CacheLimits(max_age_days=2))
    assert old not in names(tmp_path)
    assert young in names(tmp_path)


def test_numbers_of_samples_go_like_tokens_and_stay_while_they_are_used(tmp_path: Path) -> None:
    cache, key, numbers = tmp_path / "cache", "f" * 64, np.array([4, 0, 2])
    table = cache / f"{key[:32]}.numbers"
    assert np.array_equal(open_numbers(key, lambda: numbers, cache, num_samples=5), numbers)
    (listed,) = caches.caches_in(cache)
    assert (listed.kind, listed.of, listed.num_bytes) == ("SampleNumbers", "5 samples", table.stat().st_size)
    loaded(tmp_path, "a", ALL)
    assert table.exists(), "this process uses them"
    caches.let_go(table)
    loaded(tmp_path, "b", ALL)
    assert not table.exists()
    made_again = open_numbers(key, lambda: numbers, cache, num_samples=5)
    assert np.array_equal(made_again, numbers)
    unasked = open_numbers(key, lambda: np.array([1]), cache, num_samples=5)
    assert np.array_equal(unasked, numbers), "what is there is not made twice"


def test_without_limits_all_stays(tmp_path: Path) -> None:
    loaded(tmp_path, "a")
    (earlier,) = let_go_of_all(tmp_path)
    os.utime(tmp_path / "cache" / f".{earlier}.used", (0, 0))
    assert "removed" not in loaded(tmp_path, "b").notes[-1]
    assert earlier in names(tmp_path)


def test_tokens_that_went_are_made_again_the_same(tmp_path: Path) -> None:
    before = loaded(tmp_path, "a")
    let_go_of_all(tmp_path)
    caches.remove(caches.caches_in(tmp_path / "cache"))
    after = loaded(tmp_path, "a")
    assert after.fingerprint == before.fingerprint
    assert [cache.of for cache in caches.caches_in(tmp_path / "cache")] == [
        f"data.text.path: {tmp_path / 'a.txt'}, Byte"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_only_be_read_is_used_all_the_same(tmp_path: Path) -> None:
    loaded(tmp_path, "a")
    let_go_of_all(tmp_path)
    (tmp_path / "cache").chmod(0o500)
    try:
        assert loaded(tmp_path, "a", ALL).num_train_samples
    finally:
        (tmp_path / "cache").chmod(0o700)
