"""Whatever lies in a storage is read within bounds, or refused in one sentence; nothing hangs."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.hostile import (
    MAX_JSON_DEPTH,
    Hostile,
    is_file_name,
    make_folder,
    open_file,
    parse_json,
    read_file,
    read_json,
    real_folder,
)

INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
PLAIN = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(PLAIN, lambda below: st.lists(below) | st.dictionaries(st.text(), below), max_leaves=20)


@given(JSON)
def test_plain_data_comes_back_as_it_was_written(data: Any) -> None:
    assert parse_json(json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")) == data


def refusal(content: bytes) -> str | None:
    """Why `content` is refused; None if it was read, and can be written again."""
    try:
        data = parse_json(content)
    except Hostile as error:
        return str(error)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    return None


@given(st.binary() | st.text(alphabet='{}[]",:0123456789eE+-.NaInfty\\ud8 ').map(str.encode))
def test_any_other_bytes_are_refused_in_one_sentence(content: bytes) -> None:
    why = refusal(content)
    assert why is None or (why.startswith("must be JSON") and "\n" not in why)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1),
        b"9" * 1_000_000,
        b"9223372036854775808",
        b"-9223372036854775808",
        b"NaN",
        b"[-Infinity]",
        b"1e400",
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b"\xff\xfe[\x00",
        b"",
        b" " * (2**22 + 1),
    ],
    ids=lambda content: content[:12].decode("latin-1") + f" ({len(content)} bytes)",
)
def test_json_that_would_hurt_its_reader_is_refused(content: bytes) -> None:
    with pytest.raises(Hostile, match="must be JSON"):
        parse_json(content)


def test_the_deepest_allowed_is_read() -> None:
    depth = MAX_JSON_DEPTH - 1
    assert parse_json(b"[" * depth + b"1" + b"]" * depth)


def test_a_plain_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"[12]")
    assert read_file(path, max_bytes=4) == b"[12]"
    assert read_json(path) == [12]
    with pytest.raises(Hostile, match="must have at most 3 bytes"):
        read_file(path, max_bytes=3)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "other")


def test_a_link_a_pipe_a_folder_and_a_device_are_no_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("[]")
    link = tmp_path / "link"
    link.symlink_to(secret)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(Hostile, match="must be a"):
            open_file(path)


def test_a_folder_is_no_link_to_one(tmp_path: Path) -> None:
    real = tmp_path / "real"
    assert make_folder(real / "below") == real / "below"
    assert make_folder(real / "below") == real / "below", "it may be there already"
    link = tmp_path / "link"
    link.symlink_to(real)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.touch()
    for path in (link, dangling, file):
        for check in (real_folder, make_folder):
            with pytest.raises(Hostile, match=f"{path} must be a folder"):
                check(path)
    assert not (tmp_path / "nowhere").exists()


@given(st.text() | st.text(alphabet="./\0a"))
def test_the_name_of_a_file_stays_in_its_folder(name: str) -> None:
    if is_file_name(name):
        assert os.path.normpath(f"/folder/{name}") == f"/folder/{name}"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a/", "a\0b", "a" * 256])
def test_names_that_climb_are_none(name: str) -> None:
    assert not is_file_name(name)
