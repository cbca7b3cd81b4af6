"""`costopt lr-find`: what a user sees of a range test, and what is refused before anything is started."""

import json
from pathlib import Path

import pytest
import typer

from builders.cli import TRAINING, write_manifest
from builders.documents import plain_command_job, plain_job
from builders.local import recipe_job
from costopt.cli import lr_find as command
from costopt.cli.lr_find import advice, lr_find, range_table
from costopt.cli.views import console
from costopt.local import devices
from costopt.local.devices import Devices, one_device_for
from costopt.local.range_test import find_range
from costopt.local.run_folder import RunFolder
from costopt.names import CACHE_DIR
from costopt.refused import Refused
from costopt.render.text import to_yaml
from costopt.schema.job import CostOptJob
from costopt.schema.range_report import RangePoint, RangeReport, RangeRequest

POINTS = [
    RangePoint(
        step=number, learning_rate=f"{10 ** (number / 10 - 6):.9g}", loss="5.5", smoothed_loss=f"{9 - number / 10}"
    )
    for number in range(1, 46)
]


def report(**changes: object) -> RangeReport:
    plain = {
        "points": POINTS,
        "end": "Diverged",
        "suggested_learning_rate": "0.0032",
        "rule": "by some rule",
        **changes,
    }
    return RangeReport.model_validate(plain)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RangeRequest, Path | None]]:
    """What would be tried, and where; nothing is started."""
    seen: list[tuple[RangeRequest, Path | None]] = []

    def found(_job: CostOptJob, request: RangeRequest, storage: Path | None, _devices: Devices) -> RangeReport:
        seen.append((request, storage))
        return report()

    monkeypatch.setattr(command, "find_range", found)
    return seen


def test_a_table_of_some_steps_ends_with_the_last_and_the_lines_for_the_manifest_follow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console().print(range_table(report()))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "e-" in line]
    assert len(rows) <= 20
    assert rows[-1] == [f"{float(POINTS[-1].learning_rate):.2e}", "5.5000", "4.5000"]
    assert advice(report()) == [
        "Ended after 45 steps: the loss diverged.",
        "Suggested learning rate: 0.0032 (by some rule).",
        "In the manifest, under spec.train.recipe:",
        "  optimizer:",
        '    learningRate: "0.0032"',
    ]
    nothing = advice(report(suggested_learning_rate=None, rule="why not", end="HighestRate"))
    assert nothing == ["Ended after 45 steps: at the highest rate.", "No learning rate is suggested: why not."]


def test_json_is_the_whole_report(
    tmp_path: Path, asked: list[tuple[RangeRequest, Path | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    lr_find(write_manifest(tmp_path), lowest="1e-4", highest="2", steps=30, output="json")
    told = json.loads(capsys.readouterr().out)
    assert RangeReport.model_validate_json(json.dumps(told)) == report()
    assert told["suggestedLearningRate"] == "0.0032"
    assert asked == [(RangeRequest(lowest="1e-4", highest="2", steps=30), None)]


@pytest.mark.parametrize(
    ("lowest", "highest", "sentence"),
    [
        ("much", "1", "--from and --to must be numbers such as 1e-6, and are much and 1"),
        ("1", "0.1", "--from must be more than 0 and less than --to"),
        ("0", "0.1", "--from must be more than 0 and less than --to"),
    ],
)
def test_rates_that_make_no_range_are_refused(
    lowest: str, highest: str, sentence: str, tmp_path: Path, asked: list[tuple[RangeRequest, Path | None]]
) -> None:
    with pytest.raises(Refused, match=sentence):
        lr_find(write_manifest(tmp_path), lowest=lowest, highest=highest, steps=10)
    assert asked == []


def test_a_program_of_the_users_own_and_a_wrong_manifest_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(to_yaml([plain_command_job()]))
    with pytest.raises(Refused, match=r"spec.train.recipe must be set"):
        lr_find(job)
    job.write_text(to_yaml([plain_job()]).replace("totalSteps", "stepsTotal"))
    with pytest.raises(typer.Exit):
        lr_find(job)
    assert "stepsTotal" in capsys.readouterr().err


def test_a_folder_of_another_job_is_left_alone(tmp_path: Path, asked: list[tuple[RangeRequest, Path | None]]) -> None:
    manifest = write_manifest(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(Refused, match="run folder"):
        lr_find(manifest, run_dir=tmp_path / "other")
    assert asked == []


def test_the_folder_that_costopt_data_leaves_is_used_before_any_run(
    tmp_path: Path, asked: list[tuple[RangeRequest, Path | None]]
) -> None:
    manifest, folder = write_manifest(tmp_path), tmp_path / "tokens"
    RunFolder(folder).create()
    (folder / CACHE_DIR).mkdir()
    lr_find(manifest, run_dir=folder)
    assert [storage for _, storage in asked] == [folder]
    (folder / "notes.txt").touch()
    with pytest.raises(Refused, match="run folder"):
        lr_find(manifest, run_dir=folder)


def test_one_gpu_is_used_of_a_job_that_asks_for_many_and_without_any_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 8}}
    many, none = recipe_job(train={"processesPerNode": 1, "resourcesPerNode": node}), recipe_job()
    monkeypatch.setattr(devices, "_found", lambda: Devices(("0", "1"), "a-model"))
    assert one_device_for(many) == Devices(("0",), "a-model")
    assert one_device_for(none) == Devices()
    monkeypatch.setattr(devices, "_found", Devices)
    with pytest.raises(Refused, match=r"remove nvidia\.com/gpu to compute on the CPU"):
        one_device_for(many)
    assert one_device_for(none) == Devices()


@pytest.mark.slow
def test_a_real_test_uses_a_runs_cache_and_writes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path)
    monkeypatch.chdir(tmp_path)
    plain = {"resourcesPerNode": {"requests": {"cpu": "1", "memory": "1Gi"}}, "recipe": TRAINING}
    job = CostOptJob.model_validate(
        {
            "apiVersion": "costopt.dev/v1alpha1",
            "kind": "CostOptJob",
            "metadata": {"name": "tiny"},
            "spec": {"train": plain},
        }
    )
    storage = tmp_path / "runs/tiny"
    storage.mkdir(parents=True)
    found = find_range(job, RangeRequest(lowest="1e-4", highest="1", steps=20), storage, Devices())
    assert found.points
    assert [path.name for path in storage.iterdir()] == ["cache"]
    (tmp_path / "text.txt").unlink()
    with pytest.raises(Refused, match=r"text\.txt"):
        find_range(job, RangeRequest(lowest="1e-4", highest="1", steps=20), storage, Devices())
