"""A variant made under the real launcher: its report comes back in the termination message."""

import json
from pathlib import Path

import pytest

from builders.compress import LM_SHAPE, fresh_model, pruned, recipe
from builders.compress import replica as settings_of
from builders.documents import changed, plain_job
from builders.launch import python, replica
from builders.plan import report as report_on
from costopt import names
from costopt.render.settings import replica_settings
from costopt.schema.job import CostOptJob
from costopt.schema.replica import FailureReason, ReplicaSettings, TerminationMessage
from costopt.schema.variant_details import VariantReport
from costopt_trainer.launch import __main__ as launcher_of_replica
from costopt_trainer.launch.in_place import Replica
from costopt_trainer.models.artifact import save_model

pytestmark = pytest.mark.slow


def variant_settings(storage: Path) -> ReplicaSettings:
    storage.mkdir(parents=True)
    return settings_of(recipe("DecoderLM", storage), pruned("Unstructured", 50), name="half", measure_seconds=6)


def test_the_report_is_handed_over_in_the_termination_message(tmp_path: Path) -> None:
    storage = tmp_path / "claim" / "demo"
    settings = variant_settings(storage)
    save_model(storage / "artifacts" / "model", fresh_model("DecoderLM"), LM_SHAPE)
    with replica(
        tmp_path / "pod", None, settings=settings.to_plain(), environment={names.ENV_STORAGE_DIR: str(storage)}
    ) as launcher:
        assert launcher.wait() == 0, launcher.notes
        message = launcher.termination
    (report,) = (storage / "artifacts").glob("**/half/report.json")
    written = VariantReport.model_validate_json(report.read_bytes())
    assert message.variant == written.in_short(), "without the details, for which there is no room"
    assert written.details is not None
    assert written.verdict == "Rejected", "a model that has learnt nothing: it lies in a folder of its own"
    assert (written.name, message.reason) == ("half", None)


def test_without_storage_the_missing_model_is_explained_and_nothing_is_retried(tmp_path: Path) -> None:
    settings = variant_settings(tmp_path / "data")
    empty = tmp_path / "empty" / "demo"
    with replica(
        tmp_path / "pod", None, settings=settings.to_plain(), environment={names.ENV_STORAGE_DIR: str(empty)}
    ) as launcher:
        assert launcher.wait() == 78
        message = launcher.termination
    assert message.reason == "InvalidSettings"
    assert "on a cluster spec.storage must be set" in message.message
    assert message.variant is None


def test_a_training_whose_variant_cannot_be_made_does_not_begin(tmp_path: Path) -> None:
    storage = tmp_path / "demo"
    storage.mkdir()
    job = changed(
        changed(plain_job(), "spec.train.numNodes", 1), "spec.train.recipe", recipe("DecoderLM", storage).to_plain()
    )
    step = {"type": "External", "external": {"name": "missing"}}
    asked = CostOptJob.model_validate(changed(job, "spec.compress", [{"name": "small", "steps": [step]}]))
    settings = replica_settings(asked, "train", num_nodes=1).to_plain()
    with replica(
        tmp_path / "pod", None, settings=settings, environment={names.ENV_STORAGE_DIR: str(storage)}
    ) as launcher:
        assert launcher.wait() == 78, launcher.notes
        message = launcher.termination
    assert message.reason == "InvalidSettings"
    assert (
        "variant small could not be made: compress[].steps[].external.name: missing must be a step" in message.message
    )
    assert not (storage / "checkpoints").exists()


def test_a_report_of_an_earlier_attempt_is_not_handed_over_after_a_failure(tmp_path: Path) -> None:
    settings = variant_settings(tmp_path / "demo")
    report = tmp_path / "demo" / "artifacts" / "half" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(report_on("half").model_dump_json(by_alias=True))
    with replica(
        tmp_path / "pod",
        None,
        settings=settings.to_plain(),
        environment={names.ENV_STORAGE_DIR: str(tmp_path / "demo")},
    ) as launcher:
        assert launcher.wait() == 78
        assert launcher.termination.variant is None


@pytest.mark.parametrize(("reason", "handed_over"), [("VariantRejected", True), ("InvalidSettings", False)])
def test_the_report_on_a_required_variant_that_was_rejected_is_handed_over_too(
    reason: FailureReason, handed_over: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "demo/artifacts/rejected/half/report.json"
    report.parent.mkdir(parents=True)
    report.write_text(report_on("half").model_dump_json(by_alias=True))
    (tmp_path / "settings.json").write_text(json.dumps(variant_settings(tmp_path / "data").to_plain()))
    monkeypatch.setenv(names.ENV_SETTINGS_FILE, str(tmp_path / "settings.json"))
    monkeypatch.setenv(names.ENV_STORAGE_DIR, str(tmp_path / "demo"))
    monkeypatch.setenv(names.ENV_TERMINATION_FILE, str(tmp_path / "termination.json"))
    said = TerminationMessage(exit_code=78, reason=reason, message="half was rejected")
    monkeypatch.setattr(Replica, "run", lambda _self: said)
    monkeypatch.setattr(launcher_of_replica, "watch_for_stop", lambda *_: None)
    monkeypatch.setattr(launcher_of_replica, "_speak", lambda *_: None)
    monkeypatch.setattr(launcher_of_replica, "_set_defaults", lambda *_: None)  # they are of the process
    assert launcher_of_replica.main([]) == 78
    told = TerminationMessage.model_validate_json((tmp_path / "termination.json").read_bytes())
    assert (told.variant is not None) == handed_over


def test_the_storage_folder_is_there_for_a_users_program_too(tmp_path: Path) -> None:
    storage = tmp_path / "claim" / "demo"
    program = "import os; open(os.path.join(os.environ['COSTOPT_STORAGE_DIR'], 'mine'), 'w').close()"
    with replica(tmp_path / "pod", python(program), environment={names.ENV_STORAGE_DIR: str(storage)}) as launcher:
        assert launcher.wait() == 0, launcher.notes
    assert (storage / "mine").exists()


def test_a_storage_folder_that_cannot_be_made_is_no_concern_of_a_program_that_needs_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with replica(
        tmp_path / "pod", python("print('done')"), environment={names.ENV_STORAGE_DIR: str(tmp_path / "file" / "demo")}
    ) as launcher:
        assert launcher.wait() == 0, launcher.notes


@pytest.mark.parametrize("where", ["in a pod", "on one machine"])
def test_a_link_with_the_name_of_the_storage_folder_is_followed_only_on_ones_own_machine(
    where: str, tmp_path: Path
) -> None:
    (tmp_path / "others").mkdir()
    storage = tmp_path / "demo"
    storage.symlink_to(tmp_path / "others")
    surroundings = {names.ENV_STORAGE_DIR: str(storage)} | ({"COSTOPT_LIFELINE_FD": ""} if where == "in a pod" else {})
    program = "import os; open(os.path.join(os.environ['COSTOPT_STORAGE_DIR'], 'mine'), 'w').close()"
    with replica(tmp_path / "pod", python(program), environment=surroundings) as launcher:
        if where == "on one machine":
            assert launcher.wait() == 0, launcher.notes
            assert (tmp_path / "others/mine").exists()
        else:
            assert launcher.wait() == 78
            assert f"{storage} must be a folder, but is a link to another place" in launcher.termination.message
            assert not (tmp_path / "others/mine").exists()
