"""Copies of artifacts: whole or not at all, here and behind URLs."""

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from builders.artifacts import write_artifact
from costopt.artifacts import find_difference, read_manifest
from costopt.local import artifact_copies
from costopt.local.artifact_copies import copy_artifact
from costopt.refused import Refused


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in this process, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def artifact(tmp_path: Path, content: bytes = b"w" * 1000) -> Any:
    manifest = write_artifact(tmp_path / "int8", model_safetensors=content, config_json=b"{}")
    return tmp_path / "int8", manifest


def test_a_copy_in_a_folder_is_as_its_manifest_says_and_replaces_an_older_one(tmp_path: Path) -> None:
    for content in (b"old", b"newer"):
        folder, manifest = artifact(tmp_path, content)
        where = Path(copy_artifact(folder, manifest, str(tmp_path / "copies")))
        assert where == tmp_path / "copies/int8"
        assert read_manifest(where) == manifest
        assert find_difference(where, manifest) is None
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["int8"]


@pytest.mark.parametrize("place", ["here", "memory://bucket/models"])
def test_a_copy_of_another_job_is_not_replaced(tmp_path: Path, memory: Any, place: str) -> None:
    place = str(tmp_path / place) if place == "here" else place
    folder, manifest = artifact(tmp_path, b"first")
    copy_artifact(folder, manifest, place)
    others = manifest.model_copy(update={"lineage": manifest.lineage.model_copy(update={"job": "another"})})
    with pytest.raises(Refused, match=r"is there already and is of job .*; name another place"):
        copy_artifact(folder, others, place)
    if place.startswith("memory"):
        assert memory.cat_file("/bucket/models/int8/model.safetensors") == b"first"
    else:
        assert read_manifest(Path(place) / "int8") == manifest


def test_a_damaged_copy_behind_a_url_is_not_replaced(tmp_path: Path, memory: Any) -> None:
    folder, manifest = artifact(tmp_path)
    copy_artifact(folder, manifest, "memory://bucket/models")
    memory.pipe_file("/bucket/models/int8/manifest.json", b"[]")
    with pytest.raises(Refused, match=r"models/int8 has a damaged manifest\.json .*; remove it, or name another place"):
        copy_artifact(folder, manifest, "memory://bucket/models")
    assert memory.cat_file("/bucket/models/int8/manifest.json") == b"[]"


def test_an_artifact_is_not_copied_onto_itself(tmp_path: Path) -> None:
    folder, manifest = artifact(tmp_path)
    with pytest.raises(Refused, match="is the artifact itself; name another folder"):
        copy_artifact(folder, manifest, str(tmp_path))
    assert find_difference(folder, manifest) is None


def test_a_copy_behind_a_url_has_its_manifest_last_and_nothing_of_an_older_one(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = artifact(tmp_path, b"old")
    (folder / "more").write_bytes(b"more")
    old = write_artifact(folder)
    assert copy_artifact(folder, old, "memory://bucket/models/") == "memory://bucket/models/int8"
    assert "/bucket/models/int8/more" in memory.store
    (folder / "more").unlink()
    new = write_artifact(folder, model_safetensors=b"new", config_json=b"{}")
    order: list[str] = []
    pipe = type(memory).pipe_file
    monkeypatch.setattr(
        type(memory),
        "pipe_file",
        lambda self, path, *rest, **more: (order.extend(memory.find("/bucket")), pipe(self, path, *rest, **more)),
    )
    copy_artifact(folder, new, "memory://bucket/models")
    assert {path.rpartition("/")[2] for path in order} == {"config.json", "model.safetensors", "more"}, (
        "no manifest yet"
    )
    assert {path.rpartition("/")[2] for path in memory.store} == {"config.json", "model.safetensors", "manifest.json"}
    assert memory.cat_file("/bucket/models/int8/model.safetensors") == b"new"


@pytest.mark.parametrize("place", ["here", "memory://bucket"])
@pytest.mark.parametrize("what", ["more", "below/more", "a link", "less", "longer"])
def test_what_verify_names_by_name_or_size_is_refused_in_the_same_words_before_anything_is_written(
    tmp_path: Path, memory: Any, place: str, what: str
) -> None:
    folder, manifest = artifact(tmp_path)
    if what == "a link":
        (folder / "more").symlink_to("config.json")
    elif what == "less":
        (folder / "config.json").unlink()
    elif what == "longer":
        (folder / "config.json").write_bytes(b"{} ")
    else:
        (folder / what).parent.mkdir(exist_ok=True)
        (folder / what).write_bytes(b"x")
    said = find_difference(folder, manifest)
    assert said is not None
    with pytest.raises(Refused) as refused:
        copy_artifact(folder, manifest, place if "://" in place else str(tmp_path / place))
    assert str(refused.value) == f"{folder} {said}, so it was not copied; put that right, or have it made anew"
    assert memory.store == {}
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("place", ["here", "memory://bucket"])
def test_what_differs_from_its_manifest_is_not_copied(tmp_path: Path, memory: Any, place: str) -> None:
    folder, manifest = artifact(tmp_path)
    (folder / "model.safetensors").write_bytes(b"v" * 1000)
    target = place if "://" in place else str(tmp_path / place)
    with pytest.raises(Refused, match=r"has another model\.safetensors than its manifest\.json says"):
        copy_artifact(folder, manifest, target)
    assert memory.store == {}
    assert not any((tmp_path / place).glob("*")) if "://" not in place else True


@pytest.mark.parametrize("place", ["here", "memory://bucket"])
def test_what_is_no_copy_is_not_replaced(tmp_path: Path, memory: Any, place: str) -> None:
    folder, manifest = artifact(tmp_path)
    if "://" in place:
        memory.pipe_file("/bucket/int8/thesis.tex", b"x")
        target = place
    else:
        (tmp_path / place / "int8").mkdir(parents=True)
        (tmp_path / place / "int8/thesis.tex").touch()
        target = str(tmp_path / place)
    with pytest.raises(Refused, match="is there already and is no copy of an artifact"):
        copy_artifact(folder, manifest, target)


def test_a_place_that_cannot_be_written_is_told_without_the_words_of_a_library(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = artifact(tmp_path)

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret-key")

    monkeypatch.setattr(type(memory), "open", fails)
    with pytest.raises(Refused, match=r"^memory://bucket cannot be written \(RuntimeError\)") as refused:
        copy_artifact(folder, manifest, "memory://bucket")
    assert "secret-key" not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("https://user:password@host/x", "without a password"),
        ("s3://key:secret@bucket/x", "without a password"),
        ("zip://a::memory://b", "must be a plain zip:// URL"),
        ("nosuchthing://bucket/x", "must be a URL of a kind that fsspec can write to"),
        ("", "must name a folder or a URL"),
        ("/proc/nothing", "cannot be written"),
    ],
)
def test_a_place_that_is_none_is_refused_in_a_sentence(tmp_path: Path, place: str, said: str) -> None:
    folder, manifest = artifact(tmp_path)
    with pytest.raises(Refused, match=said):
        copy_artifact(folder, manifest, place)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = artifact(tmp_path)
    found = artifact_copies.importlib.import_module

    def none(name: str) -> Any:
        if name.startswith("fsspec"):
            raise ModuleNotFoundError("no", name=name)
        return found(name)

    monkeypatch.setattr(artifact_copies.importlib, "import_module", none)
    with pytest.raises(Refused, match=r"pip install 'costopt\[data\]'"):
        copy_artifact(folder, manifest, "memory://bucket")


def test_a_scheme_whose_own_package_is_missing_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = artifact(tmp_path)
    real = builtins.__import__

    def importing(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "s3fs":
            raise ModuleNotFoundError("no", name="s3fs")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(Refused, match="s3:// needs the package s3fs, which is not installed"):
        copy_artifact(folder, manifest, "s3://bucket/x")
