"""Files are whole or not there."""

import os
from pathlib import Path

import pytest

from costopt.files import write_atomically


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_other_users_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        write_atomically(tmp_path / "folder", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_is_missing_is_the_callers_matter(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "a", b"x")


def test_a_file_that_need_not_survive_a_power_cut_is_whole_all_the_same(tmp_path: Path) -> None:
    (tmp_path / ".a.tmp").symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "a", b"one", durable=False)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", ".a.tmp"}
