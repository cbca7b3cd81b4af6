"""Artifacts on disk: what is read of them, and what is found otherwise than it was written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from builders.artifacts import write_artifact, write_artifacts
from costopt.artifacts import find_difference, folders_in, hash_of, read_manifest
from costopt.hostile import Hostile


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_artifact(tmp_path / "model")
    assert read_manifest(tmp_path / "model") == written
    assert written.size_bytes == 1008
    assert [file.path for file in written.files] == ["config.json", "model.safetensors"]
    assert find_difference(tmp_path / "model", written) is None


def test_all_artifacts_of_a_storage_are_found_the_trained_model_first_and_rejected_ones_last(tmp_path: Path) -> None:
    storage = write_artifacts(tmp_path)
    write_artifact(storage / "artifacts/adapter")
    write_artifact(storage / "artifacts/a")
    (storage / "artifacts/.int8.unverified").mkdir()
    (storage / "artifacts/link").symlink_to(storage / "artifacts/model")
    found = [str(path.relative_to(storage / "artifacts")) for path in folders_in(storage)]
    assert found == ["model", "adapter", "a", "int8", "rejected/thin"]
    assert [path.name for path in folders_in(storage / "artifacts/int8")] == ["int8"]
    assert list(folders_in(tmp_path / "nothing")) == []


def test_copies_in_a_folder_are_found_and_nothing_else(tmp_path: Path) -> None:
    write_artifact(tmp_path / "int8")
    (tmp_path / "other").mkdir()
    assert [path.name for path in folders_in(tmp_path)] == ["int8"]


def grown(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"w" * 1001)


def flipped(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"w" * 999 + b"v")


def lost(folder: Path) -> None:
    (folder / "config.json").unlink()


def added(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below/more.py").touch()


def linked(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (grown, "has another model.safetensors than its manifest.json says (1001 bytes, not 1000)"),
        (flipped, "has another model.safetensors than its manifest.json says (of that size, with another content)"),
        (lost, "lacks config.json, which its manifest.json names"),
        (added, "has below/more.py, which its manifest.json does not name"),
        (linked, "must hold plain files, and config.json is none"),
    ],
)
def test_a_file_that_differs_is_named(tmp_path: Path, change: Any, sentence: str) -> None:
    manifest = write_artifact(tmp_path / "model")
    change(tmp_path / "model")
    assert find_difference(tmp_path / "model", manifest) == sentence


def test_a_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    heard: list[int] = []
    digest = hash_of(tmp_path / "file", heard.append)
    assert (digest[:8], heard) == ("ba7816bf", [3])


def replaced(**changes: Any) -> Any:
    def change(plain: dict[str, Any]) -> None:
        plain.update(changes)

    return change


@pytest.mark.parametrize(
    "change",
    [
        replaced(format="other"),
        replaced(version=2),
        replaced(name="../x"),
        replaced(files=[]),
        replaced(files=[{"path": "../x", "sizeBytes": 1, "sha256": "0" * 64}]),
        replaced(files=[{"path": "a", "sizeBytes": -1, "sha256": "0" * 64}]),
        replaced(machine={"threads": 1, "versions": {"v" * 300: "1"}}),
        replaced(results={"loss": "nan"}),
    ],
)
def test_a_manifest_of_anybodys_making_is_refused_in_a_sentence(tmp_path: Path, change: Any) -> None:
    write_artifact(tmp_path / "model")
    path = tmp_path / "model/manifest.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(Hostile, match=r"^has a damaged manifest\.json"):
        read_manifest(tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"[" * 1000, b"\xff", b"{}", b" " * 2**22 + b"{}"], ids=lambda c: str(len(c)))
def test_a_file_that_is_no_manifest_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(Hostile, match=r"^has a damaged manifest\.json"):
        read_manifest(tmp_path)


def test_a_pipe_or_a_link_in_its_place_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(Hostile, match="must be a plain file"):
        read_manifest(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "nothing")


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    written = write_artifact(tmp_path / "model")
    path = tmp_path / "model/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": {"a": 1}}))
    assert read_manifest(tmp_path / "model") == written
