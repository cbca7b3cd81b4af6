"""Caches of a storage: what is there, what is in use, and what is removed, which is never anything else."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt import caches
from costopt.caches import Cache, caches_in, hold, let_go, remove, too_many
from costopt.hostile import Hostile

KEYS = [digit * 32 for digit in "abcd"]
DAY = 86_400


def make(path: Path, num_bytes: int, *, used_at: float | None = None, of: str = "") -> Path:
    """A cache as jobs leave it: its folder, a file in it, and the file that says who uses it."""
    path.mkdir(parents=True)
    (path / "part.bin").write_bytes(b"x" * num_bytes)
    if used_at is not None:
        mark = path.with_name(f".{path.name}.used")
        mark.write_text(of)
        os.utime(mark, (used_at, used_at))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Of every kind of cache one, each used a day after the one before it."""
    cache = tmp_path / "cache"
    places = [KEYS[0], f"{KEYS[1]}.images", f"copies/{KEYS[2]}", "compile", "hugging-face"]
    for day, name in enumerate(places):
        make(cache / name, 100 * (day + 1), used_at=day * DAY, of=f"number {day}")
    (cache / f"{KEYS[0]}.report.json").write_text("{}")
    (cache / f"{KEYS[2]}.numbers").write_bytes(b"x" * 60)
    (cache / f".{KEYS[2]}.numbers.used").write_text("60 samples")
    os.utime(cache / f".{KEYS[2]}.numbers.used", (6 * DAY, 6 * DAY))
    (cache / f".{KEYS[0]}.lock").touch()
    (cache / "micro-batch.json").write_text("{}")
    (cache / "of-somebody").mkdir()
    yield cache
    for name in places:
        let_go(cache / name)


def test_every_kind_is_found_with_its_size_and_when_it_was_used_the_oldest_first(folder: Path) -> None:
    assert [(cache.kind, cache.num_bytes, cache.last_used / DAY, cache.of) for cache in caches_in(folder)] == [
        ("Tokens", 102, 0, "number 0"),
        ("Images", 200, 1, "number 1"),
        ("Copy", 300, 2, "number 2"),
        ("CompiledCode", 400, 3, "number 3"),
        ("HubModel", 500, 4, "number 4"),
        ("SampleNumbers", 60, 6, "60 samples"),
    ]
    assert [cache.kind for cache in caches_in(folder, caches.OF_DATA)] == [
        *("Tokens", "Images", "Copy", "SampleNumbers")
    ]
    assert caches_in(folder / "none") == []


def test_all_is_removed_and_nothing_but_caches(folder: Path) -> None:
    removed, kept = remove(caches_in(folder))
    assert (len(removed), kept) == (6, [])
    assert caches_in(folder) == []
    left = {path.name for path in folder.rglob("*") if not path.name.endswith((".lock", ".used"))}
    assert left == {"micro-batch.json", "of-somebody", "copies"}


def test_what_is_held_stays_until_it_is_let_go_and_counts_as_used_now(folder: Path) -> None:
    hold(folder / KEYS[0], "a text, Byte")
    tokens = next(cache for cache in caches_in(folder) if cache.kind == "Tokens")
    assert caches_in(folder)[-1] == tokens
    assert tokens.of == "a text, Byte"
    assert remove([tokens]) == ([], [tokens])
    assert (folder / KEYS[0] / "part.bin").exists()
    let_go(folder / KEYS[0])
    assert remove([tokens]) == ([tokens], [])
    assert not (folder / KEYS[0]).exists()


def test_several_hold_one_cache(folder: Path) -> None:
    hold(folder / KEYS[0], "a text")
    with (folder / f".{KEYS[0]}.used").open("rb") as another:
        fcntl.flock(another, fcntl.LOCK_SH | fcntl.LOCK_NB)
        let_go(folder / KEYS[0])
        tokens = caches_in(folder, ["Tokens"])
        assert remove(tokens) == ([], tokens)
    assert remove(tokens) == (tokens, [])


def test_what_is_being_made_stays(folder: Path) -> None:
    make(folder / f".{KEYS[3]}.partial", 10)
    with (folder / f".{KEYS[3]}.lock").open("wb") as maker:
        fcntl.flock(maker, fcntl.LOCK_EX)
        being_made = [cache for cache in caches_in(folder) if cache.name == KEYS[3]]
        assert [cache.num_bytes for cache in being_made] == [10]
        assert remove(being_made) == ([], being_made)
    assert remove(being_made) == (being_made, []), "its maker was killed"
    assert not (folder / f".{KEYS[3]}.partial").exists()


def test_a_removal_that_was_killed_is_ended_by_the_next(folder: Path) -> None:
    make(folder / f".{KEYS[3]}.0123abcd.removed", 10)
    (killed,) = (cache for cache in caches_in(folder) if cache.name == KEYS[3])
    remove([killed])
    assert [path.name for path in folder.iterdir() if KEYS[3] in path.name and path.is_dir()] == []


def test_no_link_is_followed(folder: Path, tmp_path: Path) -> None:
    mine = make(tmp_path / "mine", 1000)
    (folder / KEYS[3]).symlink_to(mine)
    (folder / KEYS[0] / "inside").symlink_to(mine)
    for path in ("compile", "copies"):
        (folder / path).rename(tmp_path / f"real-{path}")
        (folder / path).symlink_to(tmp_path / f"real-{path}")
    (folder / f".{KEYS[1]}.images.used").unlink()
    (folder / f".{KEYS[1]}.images.used").symlink_to(mine / "part.bin")
    found = caches_in(folder)
    assert sum(cache.num_bytes for cache in found) < 1000
    _, kept = remove(found)
    assert [cache.kind for cache in kept] == ["Images"], "its lock is a link"
    hold(folder / f"{KEYS[1]}.images", "of a link")
    assert (mine / "part.bin").read_bytes() == b"x" * 1000
    assert (tmp_path / "real-compile" / "part.bin").exists()
    assert (tmp_path / "real-copies" / KEYS[2] / "part.bin").exists()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Hostile, match="must be a folder, but is a link"):
        caches_in(folder)


ages = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 1000)), max_size=8)


@given(ages, st.none() | st.integers(0, 100), st.none() | st.integers(0, 3000))
def test_what_stays_is_young_and_little_and_was_used_last(
    drawn: list[tuple[int, int]], older_than: int | None, keep_bytes: int | None
) -> None:
    now = 1000.0
    found = [
        Cache("Tokens", Path(), str(number), (), num_bytes, now - age, "")
        for number, (age, num_bytes) in enumerate(sorted(drawn, reverse=True))
    ]
    chosen = too_many(found, older_than=older_than, keep_bytes=keep_bytes, now=now)
    stay = [cache for cache in found if cache not in chosen]
    assert found == [*chosen, *stay], "the oldest go"
    assert older_than is None or all(now - cache.last_used <= older_than for cache in stay)
    assert keep_bytes is None or sum(cache.num_bytes for cache in stay) <= keep_bytes
    if chosen:
        youngest = chosen[-1]
        is_old = older_than is not None and now - youngest.last_used > older_than
        is_much = keep_bytes is not None and sum(cache.num_bytes for cache in [youngest, *stay]) > keep_bytes
        assert is_old or is_much, "no more than need be"
