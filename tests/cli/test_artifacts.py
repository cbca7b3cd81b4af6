"""`costopt artifacts`: lists, verifies and copies; of a run, of copies, and of a job on a cluster."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.artifacts import measured, variant_report, write_artifact, write_artifacts
from builders.fake_api import FakeApi, serving, write_kubeconfig
from builders.local import job, runner_in
from builders.on_cluster import Command, add_job, at_home, command, succeeded


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    at_home(monkeypatch, tmp_path, None)
    return command(monkeypatch, capsys)


@pytest.fixture(scope="module")
def ended_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    runner_in(folder, job(), "finish").run()
    return write_artifacts(folder)


def test_artifacts_are_listed_with_format_size_verdict_quality_and_speed_in_80_columns(
    run: Command, ended_run: Path
) -> None:
    ended = run("artifacts", str(ended_run))
    lines = ended.out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    assert rows["model"] == ["Safetensors", "1008", "B", "loss", "2.0000", "1.00x"]
    assert rows["int8"] == ["Safetensors", "1008", "B", "Accepted", "loss", "2.0100", "2.00x"]
    assert rows["thin"] == ["Safetensors", "1008", "B", "Rejected", "loss", "2.0100", "2.00x"]
    assert max(map(len, lines)) <= 80
    assert ended.code == 0


def test_programs_get_the_manifests(run: Command, ended_run: Path) -> None:
    found = json.loads(run("artifacts", "--run-dir", str(ended_run), "--output", "json").out)
    assert [each["name"] for each in found] == ["model", "int8", "thin"]
    assert found[0]["manifest"] == json.loads((ended_run / "artifacts/model/manifest.json").read_text())
    assert [each["verdict"] for each in found] == [None, "Accepted", "Rejected"]


def test_verify_ends_well_where_all_is_as_it_was_written(run: Command, ended_run: Path) -> None:
    ended = run("artifacts", str(ended_run), "--verify")
    assert ended.code == 0
    assert "Verified: 3 artifacts, 6 files" in ended.err


def test_verify_ends_with_1_and_names_the_file_that_differs(run: Command, tmp_path: Path) -> None:
    write_artifacts(tmp_path / "storage")
    (tmp_path / "storage/artifacts/int8/model.safetensors").write_bytes(b"v" * 1000)
    ended = run("artifacts", "storage", "--verify")
    assert ended.code == 1
    said = (
        "costopt artifacts: storage/artifacts/int8 has another model.safetensors than its manifest.json says "
        "(of that size, with another content)"
    )
    assert ended.err.splitlines() == [said]


def test_accepted_artifacts_are_copied_and_a_copy_is_verified_like_a_run(run: Command, tmp_path: Path) -> None:
    write_artifacts(tmp_path / "storage")
    assert run("artifacts", "storage", "--copy-to", "copies").code == 0
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["int8", "model"]
    ended = run("artifacts", "copies", "--verify")
    assert (ended.code, "Verified: 2 artifacts" in ended.err) == (0, True)
    assert run("artifacts", "copies/int8", "--verify").code == 0


def test_a_model_among_copies_is_not_shown_with_the_figures_of_another_jobs_variant(
    run: Command, tmp_path: Path
) -> None:
    write_artifact(tmp_path / "copies/model")
    other = write_artifact(tmp_path / "other/model", model_safetensors=b"o" * 1000, config_json=b"{}")
    write_artifact(tmp_path / "copies/int8", variant_report(baseline=measured(4_000_000, 1000, "7.5")), made_of=other)
    rows = {line.split()[0]: line.split()[1:] for line in run("artifacts", "copies").out.splitlines() if line.split()}
    assert rows["model"] == ["Safetensors", "1008", "B", "loss", "2.0000"]


def test_one_artifact_that_has_lost_its_manifest_is_a_difference(run: Command, tmp_path: Path) -> None:
    write_artifact(tmp_path / "int8", variant_report())
    assert "Verified: 1 artifact, 2 files" in run("artifacts", "int8", "--verify").err
    (tmp_path / "int8/manifest.json").unlink()
    ended = run("artifacts", "int8", "--verify")
    assert (ended.code, "int8 has no manifest.json" in ended.err) == (1, True)


def test_one_of_them_may_be_named_also_a_rejected_one(run: Command, tmp_path: Path) -> None:
    write_artifacts(tmp_path / "storage")
    assert run("artifacts", "storage", "--only", "thin", "--copy-to", "copies").code == 0
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["thin"]
    ended = run("artifacts", "storage", "--only", "fat")
    assert ended.code == 2
    assert "--only must name an artifact in storage: there are int8, model, thin; it is fat" in ended.err


def test_a_damaged_manifest_is_one_sentence_beside_the_others(run: Command, tmp_path: Path) -> None:
    write_artifacts(tmp_path / "storage")
    (tmp_path / "storage/artifacts/int8/manifest.json").write_text("{")
    for options in ((), ("--verify",), ("--copy-to", "copies")):
        ended = run("artifacts", "storage", *options)
        assert ended.code == 2
        assert "Damaged" in ended.out
        assert ended.err.splitlines()[-1].startswith(
            "costopt artifacts: storage/artifacts/int8 has a damaged manifest.json (must be JSON)"
        )


def test_what_an_earlier_version_has_made_is_listed_and_said_to_have_no_manifest(run: Command, tmp_path: Path) -> None:
    write_artifact(tmp_path / "storage/artifacts/model")
    (tmp_path / "storage/artifacts/model/manifest.json").unlink()
    assert "Safetensors" in run("artifacts", "storage").out
    ended = run("artifacts", "storage", "--verify")
    assert (ended.code, "has no manifest.json" in ended.err) == (1, True)
    assert "must have a manifest.json to be copied" in run("artifacts", "storage", "--copy-to", "copies").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "nowhere does not exist"),
        (("file",), "file is not a folder"),
        ((".",), "is not a run folder"),
        (("storage", "--copy-to", "s3://key:secret@bucket"), "without a password"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    run: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    write_artifacts(tmp_path / "storage")
    (tmp_path / "file").touch()
    ended = run("artifacts", *arguments)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert said in ended.err


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    api = FakeApi()
    with serving(api) as url:
        at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", url))
        yield api


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ({"claimName": "models"}, "in the claim models (namespace research), in its folder tiny/artifacts"),
        ({"create": {"size": "1Gi"}}, "in the claim tiny-storage (namespace research)"),
        (None, "for the job has no storage; set spec.storage"),
    ],
)
def test_of_a_job_on_a_cluster_its_variants_are_listed_and_where_their_files_are(
    cluster: FakeApi,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    storage: dict[str, object] | None,
    said: str,
) -> None:
    status = {**succeeded(), "variants": [variant_report().to_plain()]}
    add_job(cluster, status=status, **({"storage": storage} if storage else {}))
    run = command(monkeypatch, capsys)
    ended = run("artifacts", "tiny")
    assert ended.code == 0
    assert "Accepted" in ended.out
    assert said in " ".join(ended.out.split())
    ended = run("artifacts", "tiny", "--verify")
    assert (ended.code, said in ended.err) == (2, True)
