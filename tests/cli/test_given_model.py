"""A job that compresses a model that is there, from the manifest to the bill."""

import os
from pathlib import Path

import pytest
import yaml

from builders.cli import costopt
from builders.local import INT8, given_job, price_book
from costopt.local.run_folder import RunFolder
from costopt.render.text import to_yaml
from costopt.schema.job import CostOptJob
from costopt.schema.status import JobStatus, StageStatus


def written(folder: Path, job: CostOptJob) -> None:
    """The job, its price book, and the text that its model is measured on."""
    (folder / "job.yaml").write_text(to_yaml([job.to_plain(), price_book().to_plain()]))
    (folder / "text.txt").write_text("".join(f"{n} bottles of beer on the wall, take one down.\n" for n in range(700)))


def test_it_is_valid_and_creates_its_variants_alone(tmp_path: Path) -> None:
    written(tmp_path, given_job(INT8, {**INT8, "name": "other"}))
    assert costopt(tmp_path, "validate", "job.yaml").stdout == "2 documents valid\n"
    drawn = list(yaml.safe_load_all(costopt(tmp_path, "plan", "job.yaml").stdout))
    assert [(child["kind"], child["metadata"]["name"]) for child in drawn] == [
        ("NetworkPolicy", "tiny-peers"),
        ("ConfigMap", "tiny-int8-a0"),
        ("Job", "tiny-int8-a0"),
        ("ConfigMap", "tiny-other-a0"),
        ("Job", "tiny-other-a0"),
    ]
    refused = costopt(tmp_path, "lr-find", "job.yaml")
    assert (refused.returncode, "spec.train.recipe must be set" in refused.stderr) == (2, True)


def test_its_status_tells_what_each_variant_is_at_in_eighty_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = given_job(INT8, {**INT8, "name": "a-name-as-long-as-it-may-be-30"})
    run_folder = RunFolder(tmp_path / "runs/tiny")
    run_folder.create()
    run_folder.claim(job)
    trains = StageStatus(name="int8", state="Running", phase="fine-tuning, step 123456 of 1000000")
    measures = StageStatus(name="a-name-as-long-as-it-may-be-30", state="Running", phase="measuring 40 %")
    run_folder.write_status(JobStatus(stages=[trains, measures]))
    monkeypatch.setitem(os.environ, "COLUMNS", "80")
    told = costopt(tmp_path, "status").stdout
    assert "int8: fine-tuning, step 123456 of 1000000\n" in told
    assert "a-name-as-long-as-it-may-be-30: measuring 40 %\n" in told
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.slow
def test_a_folder_that_is_not_there_is_told_in_one_sentence_and_not_tried_again(tmp_path: Path) -> None:
    written(tmp_path, given_job({**INT8, "measureSeconds": 6}, priceBookName="sample"))
    ended = costopt(tmp_path, "run", "job.yaml")
    status = RunFolder(tmp_path / "runs/tiny").status()
    told = (
        "model.path: models/tiny must be a folder on the machine (or in the pod) that makes the variant, but there is "
        f"none; a relative path begins at {tmp_path}"
    )
    assert ended.returncode == 1
    assert "int8 failed: InvalidSettings (attempt 0, rank 0, replica 0, exit code 78)" in ended.stdout + ended.stderr
    assert f"  {told}\n" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert [(stage.name, stage.state, stage.attempt) for stage in status.stages] == [("int8", "Failed", 0)]


@pytest.mark.slow
def test_it_runs_to_its_bill_on_one_machine(tmp_path: Path) -> None:
    from builders.compress import LM_SHAPE, fresh_model
    from costopt_trainer.models.artifact import save_model

    save_model(tmp_path / "models/tiny", fresh_model("DecoderLM"), LM_SHAPE)
    written(tmp_path, given_job({**INT8, "measureSeconds": 6, "required": True}, priceBookName="sample"))
    ended = costopt(tmp_path, "run", "job.yaml")
    run_folder = RunFolder(tmp_path / "runs/tiny")
    status = run_folder.status()
    # The model was never trained, so it guesses: its variant is made and measured, and then rejected.
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert [(stage.name, stage.state, stage.attempt) for stage in status.stages] == [("int8", "Failed", 0)]
    assert [(report.name, report.verdict, report.reloaded) for report in status.variants] == [
        ("int8", "Rejected", True)
    ]
    assert "int8: rejected: its validation loss" in ended.stdout
    assert status.bill is not None
    assert {(line.stage, line.cause) for line in status.bill.lines} == {("int8", "LostProgress")}
    assert (run_folder.path / "artifacts/rejected/int8/model.safetensors").exists()
    assert sorted(path.name for path in (tmp_path / "models/tiny").iterdir()) == ["config.json", "model.safetensors"]
