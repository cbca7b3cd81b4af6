"""Checkpoints that others have written, and the artifact: whole, or passed over."""

import signal
from pathlib import Path

import pytest

from builders.session import run_program, session_in
from costopt.artifacts import find_difference, read_manifest
from costopt_trainer.session.complete import MARK_FILE, damage_of, mark_complete, newest_complete, publish_path


def checkpoint(parent: Path, step: int) -> Path:
    folder = parent / f"checkpoint-{step}"
    (folder / "below").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * step)
    (folder / "below/state.json").write_text("{}")
    return folder


DAMAGES = {
    "a kill in the midst of it": (lambda folder: (folder / MARK_FILE).unlink(), "it was not saved to its end"),
    "a file cut off": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"w"),
        "model.safetensors has another size than when it was saved",
    ),
    "a file that is gone": (lambda folder: (folder / "below/state.json").unlink(), "state.json is missing"),
    "a mark that is none": (lambda folder: (folder / MARK_FILE).write_text("[]"), "cannot be read"),
    "a mark that climbs": (lambda folder: (folder / MARK_FILE).write_text('{"files": {"../x": 1}}'), "names '../x'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_is_not_whole_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    for step in (9, 10):
        mark_complete(checkpoint(tmp_path, step))
    assert newest_complete(tmp_path, "checkpoint-") == ((10, tmp_path / "checkpoint-10"), [])
    do, words = DAMAGES[damage]
    do(tmp_path / "checkpoint-10")
    newest, passed_over = newest_complete(tmp_path, "checkpoint-")
    assert newest == (9, tmp_path / "checkpoint-9")
    assert len(passed_over) == 1
    assert passed_over[0].startswith("checkpoint-10: ")
    assert words in passed_over[0]


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "none", "checkpoint-") == (None, [])
    checkpoint(tmp_path, 3)
    assert newest_complete(tmp_path, "checkpoint-") == (None, ["checkpoint-3: it was not saved to its end"])


def test_a_mark_is_renewed(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 4)
    mark_complete(folder)
    (folder / "model.safetensors").write_bytes(b"other")
    mark_complete(folder)
    assert damage_of(folder) is None


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_published_replaces_what_was_there(tmp_path: Path, kind: str) -> None:
    for content in ("old", "new"):
        partial = tmp_path / ".x.partial"
        if kind == "folder":
            partial.mkdir()
        (partial / "in" if kind == "folder" else partial).write_text(content)
        publish_path(partial, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x/in" if kind == "folder" else tmp_path / "x").read_text() == "new"


def model(folder: Path, weights: str) -> Path:
    (folder / "below").mkdir(parents=True, exist_ok=True)
    (folder / "below/weights").write_text(weights)
    (folder / "config.json").unlink(missing_ok=True)
    (folder / "config.json").symlink_to("below/weights")
    return folder


def test_an_artifact_is_a_copy_with_all_that_is_below_and_what_links_lead_to(tmp_path: Path) -> None:
    session = session_in(tmp_path / "storage")
    for weights in ("old", "new"):
        target = session.artifact(model(tmp_path / "mine", weights))
        assert target == tmp_path / "storage/artifacts/model"
        assert not (target / "config.json").is_symlink()
        assert (target / "config.json").read_text() == (target / "below/weights").read_text() == weights
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_artifact_has_a_manifest_that_names_its_files_and_its_licence(tmp_path: Path) -> None:
    folder = model(tmp_path / "mine", "w")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    target = session_in(tmp_path / "storage").artifact(folder)
    assert target is not None
    manifest = read_manifest(target)
    assert find_difference(target, manifest) is None
    assert [file.path for file in manifest.files] == ["README.md", "below/weights", "config.json"]
    assert (manifest.licence, manifest.lineage.recipe, manifest.lineage.checkpoint_step) == ("mit", None, None)


def test_only_rank_0_publishes(tmp_path: Path) -> None:
    session_in(tmp_path / "storage", rank=1).artifact(model(tmp_path / "mine", "w"))
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("what", ["nothing", "empty", "artifacts/mine", "artifacts/model", "."])
def test_what_cannot_be_an_artifact_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "artifacts").mkdir()
    if what.startswith("artifacts"):
        model(tmp_path / what, "w")
    with pytest.raises(ValueError, match=r"^the artifact (must be a folder with|is copied to)"):
        session_in(tmp_path).artifact(tmp_path / what)


def test_a_program_killed_while_it_publishes_leaves_the_artifact_before_and_the_next_one_goes_through(
    tmp_path: Path,
) -> None:
    session_in(tmp_path).artifact(model(tmp_path / "mine", "old"))
    model(tmp_path / "mine", "new")
    code = """
        import os, shutil, signal
        def copytree(source, target):
            os.mkdir(target)
            shutil.copy(source / "config.json", target)
            os.kill(os.getpid(), signal.SIGKILL)
        shutil.copytree = copytree
        session.artifact("mine")
        """
    assert run_program(tmp_path, code).returncode == -signal.SIGKILL
    assert (tmp_path / "artifacts/model/below/weights").read_text() == "old"
    session_in(tmp_path).artifact(tmp_path / "mine")
    assert (tmp_path / "artifacts/model/below/weights").read_text() == "new"
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["model"]
