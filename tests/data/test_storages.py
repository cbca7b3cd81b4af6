"""What jobs write is data for none; what a user keeps beside it is."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.data import image_settings, text_settings
from builders.launch import replica
from costopt import names
from costopt.files import mark_storage
from costopt.local.run_folder import RunFolder
from costopt_trainer.data.sources.image_file import ImageFile
from costopt_trainer.data.sources.text_files import text_files
from costopt_trainer.data.storages import WRITTEN_IN_A_RUN_FOLDER, WRITTEN_IN_A_STORAGE
from costopt_trainer.errors import NotRetryable

SAFETY = Path(__file__).parents[2] / "docs/safety.md"
JSON = "[1, 2, 3]" * 50


def earlier_run_folder(path: Path) -> Path:
    """A job's folder on one machine, with JSON of all kinds in it, from before storages had marks."""
    for name in ("job.json", "status.json", "lock", "replicas/a/settings.json", "checkpoints/step-1/state.json"):
        put(path / name)
    return path


def run_folder(path: Path) -> Path:
    """The same as it is now."""
    mark_storage(earlier_run_folder(path))
    return path


def storage(path: Path) -> Path:
    """A job's folder on a claim."""
    put(path / "checkpoints/step-1/state.json")
    mark_storage(path)
    return path


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(JSON)
    return path


def found(path: Path, own_folder: Path | None = None) -> set[Path]:
    return {file.path for file in text_files(text_settings(path, include="*.json"), own_folder).files}


def test_what_jobs_write_is_no_data(tmp_path: Path) -> None:
    notes = put(tmp_path / "notes.json")
    own, other = run_folder(tmp_path / "runs/own"), run_folder(tmp_path / "runs/other")
    (tmp_path / "link").symlink_to(own)
    unmarked = tmp_path / "storage/own"  # as on a claim that could not be marked: the job's own word is enough
    state = put(unmarked / "checkpoints/step-1/state.json")
    for own_folder in (own, tmp_path / "link"):
        assert found(tmp_path, own_folder) == {notes, state}
    assert found(tmp_path, unmarked) == {notes}
    assert other.is_dir()


KINDS = {"run folder": run_folder, "run folder of an earlier version": earlier_run_folder, "storage": storage}


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_passes_over_the_storages_of_others(tmp_path: Path, kind: str) -> None:
    notes = put(tmp_path / "notes.json")
    put(KINDS[kind](tmp_path / "runs/other") / "texts/notes.json")
    assert found(tmp_path) == {notes}


@pytest.mark.parametrize("missing", ["job.json", "status.json", "lock"])
def test_a_folder_with_some_of_a_run_folders_files_is_data(tmp_path: Path, missing: str) -> None:
    (earlier_run_folder(tmp_path / "other") / missing).unlink()
    assert tmp_path / "other/replicas/a/settings.json" in found(tmp_path)


def test_the_storage_of_another_job_is_no_data_from_its_very_beginning(tmp_path: Path) -> None:
    claim = tmp_path / "claim"
    notes = put(claim / "texts/notes.json")
    with replica(tmp_path / "pod", ["true"], environment={names.ENV_STORAGE_DIR: str(claim / "other")}) as other:
        assert other.wait() == 0
    (claim / "other/anything.json").write_text("{}")
    RunFolder(claim / "local").create()
    (claim / "local/job.json").write_text("{}")
    assert found(claim, claim / "own") == {notes}


@pytest.mark.parametrize("reader", ["text", "images"])
@pytest.mark.parametrize("place", ["", "checkpoints", "artifacts/model", "logs"])
@pytest.mark.parametrize("make", [run_folder, earlier_run_folder])
def test_a_path_into_another_jobs_storage_is_refused(
    tmp_path: Path, reader: str, place: str, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path / "other") / place
    folder.mkdir(parents=True, exist_ok=True)
    read = {
        "text": lambda: text_files(text_settings(folder, include="*.json"), tmp_path / "own"),
        "images": lambda: ImageFile(image_settings(folder)),
    }[reader]
    with pytest.raises(NotRetryable, match=f"is what a job writes itself .{tmp_path / 'other'}.; give data"):
        read()


@pytest.mark.parametrize("whose", ["this", "a"])
@pytest.mark.parametrize("name", [*WRITTEN_IN_A_STORAGE, *WRITTEN_IN_A_RUN_FOLDER])
def test_a_name_of_a_run_folder_only_is_the_users_on_a_claim(tmp_path: Path, name: str, whose: str) -> None:
    own = {"this": tmp_path / "storage", "a": tmp_path / "own"}[whose]
    refused = f"is what {whose} job writes itself"
    make_one = put if Path(name).suffix in (".json", ".jsonl") or name == "lock" else lambda path: put(path / "a.json")
    make_one(storage(tmp_path / "storage") / name)
    if name in WRITTEN_IN_A_STORAGE or name == "job.json":
        with pytest.raises(NotRetryable, match=refused):
            found(tmp_path / "storage" / name, own)
    else:
        assert len(found(tmp_path / "storage" / name, own)) == 1
    put(tmp_path / "storage/job.json")
    with pytest.raises(NotRetryable, match=refused):
        found(tmp_path / "storage" / name, own)


@pytest.mark.parametrize("make", [run_folder, earlier_run_folder, storage])
def test_what_a_user_keeps_in_a_storage_beside_what_the_job_writes_is_data(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    notes = put(make(tmp_path / "other") / "texts/notes.json")
    assert found(notes.parent) == found(notes) == {notes}
    assert found(notes.parent, tmp_path / "other") == {notes}


@pytest.mark.parametrize("path", [".", "checkpoints", "checkpoints/step-1/state.json", "status.json", "../own"])
def test_a_job_that_is_to_train_on_what_it_writes_is_told_so(tmp_path: Path, path: str) -> None:
    own = run_folder(tmp_path / "own")
    with pytest.raises(NotRetryable, match="is what this job writes itself"):
        found(own / path, own)


@pytest.mark.parametrize("to", ["checkpoints", "checkpoints/step-1/state.json", "."])
@pytest.mark.parametrize("own_folder", [None, "storage"])
def test_a_link_in_the_data_is_taken_as_a_path_to_what_it_leads_to(
    tmp_path: Path, to: str, own_folder: str | None
) -> None:
    texts = storage(tmp_path / "storage") / "texts"
    notes = put(texts / "notes.json")
    own = None if own_folder is None else tmp_path / own_folder
    (texts / "link.json").symlink_to(tmp_path / "storage" / to)
    assert found(texts, own) == {notes}
    put(tmp_path / "storage/more/of/them.json")
    (texts / "more").symlink_to(tmp_path / "storage/more")
    (texts / "one.json").symlink_to(tmp_path / "storage/more/of/them.json")
    assert found(texts, own) == {notes, texts / "more/of/them.json", texts / "one.json"}


def test_the_page_on_safety_names_what_jobs_write_and_what_marks_a_storage() -> None:
    [told] = re.findall(r"^- \*\*Data\*\*:.*(?:\n  .*)*", SAFETY.read_text(), re.MULTILINE)
    words = set(re.findall(r"`([^`]+)`", told))
    users = {f"{names.STORAGE_MOUNT}/{name}" for name in ("data", "logs")}
    assert words == {names.STORAGE_MARK, *WRITTEN_IN_A_STORAGE, *WRITTEN_IN_A_RUN_FOLDER, *users}
