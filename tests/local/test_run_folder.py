"""Whose a run folder is, and what is said about one that is not usable."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from builders.local import RECIPE, given_job, job, recipe_job
from builders.plan import report as report_on
from costopt.local.run_folder import RunFolder
from costopt.refused import Refused
from costopt.schema.job import CostOptJob


def folder_of(path: Path, first: CostOptJob) -> RunFolder:
    run_folder = RunFolder(path)
    run_folder.create()
    run_folder.claim(first)
    return run_folder


@pytest.mark.parametrize(
    "changes",
    [
        {"suspend": True},
        {"budget": {"amount": "3"}, "priceBookName": "sample"},
        {"restarts": {"maxFailures": 7}},
        {"activeDeadlineSeconds": 60},
        {"ttlSecondsAfterFinished": 60},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_only_limits_a_run_may_change_between_runs(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder_of(tmp_path / "run", recipe_job()).claim(recipe_job(**changes))


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (recipe_job(name="other"), "holds the run of job tiny, not of other"),
        (recipe_job(train={"recipe": {**RECIPE, "totalSteps": 21}}), "spec.train.recipe.totalSteps is not what it was"),
        (recipe_job(train={"numNodes": 1}), "spec.train.numNodes is not what it was"),
        (recipe_job(compress=[]), "spec.compress is not what it was"),
    ],
    ids=["name", "recipe", "nodes", "variants"],
)
def test_a_folder_of_another_job_is_refused(tmp_path: Path, second: CostOptJob, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        folder_of(tmp_path / "run", recipe_job()).claim(second)
    assert "--run-dir" in str(refused.value)


def test_all_settings_that_have_changed_are_named_up_to_a_few(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", recipe_job())
    two = recipe_job(train={"numNodes": 1, "recipe": {**RECIPE, "totalSteps": 21}})
    with pytest.raises(
        Refused, match=r"^spec.train.numNodes and spec.train.recipe.totalSteps are not what they were when"
    ):
        folder.claim(two)
    batch = {"globalBatchSize": 16, "microBatchSize": 1}
    many = {**RECIPE, "batch": batch, "totalSteps": 21, "seed": 7, "precision": "BF16", "compile": True}
    with pytest.raises(Refused, match=r"(spec\.[\w.]+(, | and )){5}2 more settings are not what they were"):
        folder.claim(recipe_job(train={"numNodes": 1, "recipe": many}))


def test_a_folder_knows_whether_anything_was_saved_in_it(tmp_path: Path) -> None:
    run_folder = folder_of(tmp_path / "run", recipe_job())
    assert run_folder.has_checkpoint() is False
    (run_folder.path / "checkpoints/.step-probe-1").mkdir(parents=True)
    assert run_folder.has_checkpoint() is False, "what is only begun is none"
    (run_folder.path / "checkpoints/step-00000040").mkdir()
    assert run_folder.has_checkpoint() is True
    assert folder_of(tmp_path / "own", job()).has_checkpoint() is None, "a program of the user's own knows"
    assert folder_of(tmp_path / "given", given_job()).has_checkpoint() is None


def test_what_a_manifest_leaves_to_its_default_may_be_spelled_out_later(tmp_path: Path) -> None:
    spelled = job(train={"numNodes": 2}, compress=[], restarts={"maxFailures": 3})
    folder_of(tmp_path / "run", job()).claim(spelled)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(Refused, match=r"not a run folder and not empty \(thesis.tex is in it\)"):
        RunFolder(tmp_path).create()


def test_what_a_runner_killed_at_its_very_first_write_leaves_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / ".job.json.17.abcd.tmp").touch()
    folder_of(tmp_path, job())
    assert RunFolder(tmp_path).job().metadata.name == "tiny"


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(Refused, match="cannot be used as a run folder"):
        RunFolder(tmp_path / "run").create()
    with pytest.raises(Refused, match="is not a folder"):
        RunFolder(tmp_path / "run").job()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Refused, match="Permission denied"):
        RunFolder(tmp_path / "run").create()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("status.json", "{", "status.json is damaged"),
        ("status.json", '{"execution": "two"}', r"status.json is damaged \(execution: "),
        ("job.json", "", "job.json is damaged"),
        ("ledger.jsonl", "{}\n", "ledger.jsonl is damaged"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(tmp_path: Path, file: str, content: str, said: str) -> None:
    run_folder = folder_of(tmp_path / "run", job())
    (tmp_path / "run" / file).write_text(content)
    with pytest.raises(Refused, match=said) as refused:
        {"status.json": run_folder.status, "job.json": run_folder.job, "ledger.jsonl": run_folder.ledger}[file]()
    assert "\n" not in str(refused.value)


def test_a_folder_where_a_file_should_be_is_named_in_one_sentence(tmp_path: Path) -> None:
    run_folder = folder_of(tmp_path / "run", job())
    (tmp_path / "run/status.json").mkdir()
    with pytest.raises(Refused, match=r"status.json is damaged \(must be a plain file\)"):
        run_folder.status()


def test_a_variants_report_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    run_folder = folder_of(tmp_path / "run", recipe_job())
    report = tmp_path / "run/artifacts/int8/report.json"
    assert run_folder.variant_report("int8") is None
    report.parent.mkdir(parents=True)
    report.write_text("{}")
    assert run_folder.variant_report("int8") is None


@pytest.mark.parametrize("folder", ["artifacts/int8", "artifacts/rejected/int8"])
def test_a_variants_report_is_found_whether_it_was_accepted_or_rejected(tmp_path: Path, folder: str) -> None:
    run_folder = folder_of(tmp_path / "run", recipe_job())
    (tmp_path / "run" / folder).mkdir(parents=True)
    (tmp_path / "run" / folder / "report.json").write_text(report_on("int8").model_dump_json(by_alias=True))
    assert run_folder.variant_report("int8") == report_on("int8")


def test_of_a_variants_report_the_status_part_is_told(tmp_path: Path) -> None:
    run_folder = folder_of(tmp_path / "run", recipe_job())
    (tmp_path / "run/artifacts/int8").mkdir(parents=True)
    side = {"footprint": {"diskBytes": 1, "weightsBytes": 1}, "timings": []}
    details = {"threads": 2, "device": "cpu", "variant": side, "baseline": side, "quality": [], "resamples": 2000}
    whole = {**report_on("int8").to_plain(), "details": details}
    (tmp_path / "run/artifacts/int8/report.json").write_text(json.dumps(whole))
    assert run_folder.variant_report("int8") == report_on("int8")
