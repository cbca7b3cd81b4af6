"""What the commands on a cluster ask of the API server, and what they make of its answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from builders.cli import write_manifest
from builders.fake_api import BOOKS, JOBS, PODS, TOKEN, FakeApi, refused, serving, write_kubeconfig
from builders.on_cluster import (
    Command,
    add_job,
    add_pod,
    at_home,
    command,
    condition,
    failed,
    running,
    succeeded,
)

TINY = f"{JOBS}/tiny"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    fake = FakeApi()
    with serving(fake) as url:
        at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", url))
        yield fake


@pytest.fixture
def costopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command(monkeypatch, capsys)


def test_submit_applies_what_was_written_and_says_what_to_type_next(
    api: FakeApi, costopt: Command, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path)
    ended = costopt("submit", "job.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "PriceBook sample submitted.",
        "Job tiny submitted (namespace research of the cluster of context lab).",
        "",
        "Next:",
        "  costopt watch tiny",
        "  costopt logs tiny --follow",
        "  costopt cost tiny",
    ]
    rehearsed, applied = api.asked("PATCH", TINY)
    assert rehearsed.query["dryRun"] == "All"
    assert applied.body == next(yaml.safe_load_all(manifest.read_text()))
    assert applied.query == {"fieldManager": "costopt-cli", "fieldValidation": "Strict", "force": "false"}
    assert applied.headers["content-type"] == "application/apply-patch+yaml"
    assert applied.headers["authorization"] == f"Bearer {TOKEN}"

    again = costopt("submit", "job.yaml")
    assert "Job tiny is there already, and the same" in again.out
    manifest.write_text(manifest.read_text().replace("totalSteps: 60", "totalSteps: 70"))
    assert "Job tiny changed" in costopt("submit", "job.yaml").out


def test_a_dry_run_asks_the_server_and_changes_nothing(api: FakeApi, costopt: Command, tmp_path: Path) -> None:
    write_manifest(tmp_path)
    ended = costopt("submit", "job.yaml", "--dry-run")
    assert ended.code == 0
    assert "Job tiny would be submitted" in ended.out
    assert "Next" not in ended.out
    assert [request.query["dryRun"] for request in api.requests if request.method == "PATCH"] == ["All", "All"]
    assert api.stored == {}


def test_a_mistake_is_found_here_before_anything_is_asked(api: FakeApi, costopt: Command, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    manifest.write_text(manifest.read_text().replace("numNodes: 2", "numNodes: two"))
    ended = costopt("submit", "job.yaml")
    assert ended.code == 2
    line = manifest.read_text().splitlines().index("    numNodes: two") + 1
    assert f"job.yaml:{line}: spec.train.numNodes: " in ended.err
    assert api.requests == []


def test_a_mistake_that_only_the_server_finds_is_named_with_its_line(
    api: FakeApi, costopt: Command, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path)
    causes = [
        {
            "reason": "FieldValueInvalid",
            "message": 'Invalid value: "object": train cannot change',
            "field": "spec.train",
        }
    ]
    api.instead["PATCH", TINY] = refused(422, "Invalid", "CostOptJob is invalid", causes=causes)
    ended = costopt("submit", "job.yaml")
    assert ended.code == 2
    line = manifest.read_text().splitlines().index("  train:") + 1
    assert ended.err == f"job.yaml:{line}: spec.train: train cannot change\n"


def test_prices_that_may_not_be_set_are_left_out_and_the_job_is_submitted(
    api: FakeApi, costopt: Command, tmp_path: Path
) -> None:
    write_manifest(tmp_path)
    api.instead["PATCH", f"{BOOKS}/sample"] = refused(403, "Forbidden", "pricebooks is forbidden")
    ended = costopt("submit", "job.yaml")
    assert ended.code == 0
    assert "PriceBook sample was left out: you may not set prices on the cluster of context lab" in ended.err
    assert "Job tiny submitted" in ended.out


def test_a_price_book_that_is_nowhere_is_noted(api: FakeApi, costopt: Command, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    manifest.write_text(manifest.read_text().replace("priceBookName: sample", "priceBookName: other"))
    assert "Note: there is no PriceBook other on the cluster of context lab" in costopt("submit", "job.yaml").out


def test_a_job_that_has_ended_is_not_submitted_again(api: FakeApi, costopt: Command, tmp_path: Path) -> None:
    write_manifest(tmp_path)
    add_job(api, status=succeeded())
    ended = costopt("submit", "job.yaml")
    assert ended.code == 2
    assert "job tiny has ended (Completed) and is not run again; give the new one another name" in ended.err
    assert api.asked("PATCH", TINY) == []


def test_fields_that_others_have_set_need_force(api: FakeApi, costopt: Command, tmp_path: Path) -> None:
    write_manifest(tmp_path)
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": f".spec.{name}"}
        for manager, name in (("argocd", "priceBookName"), ("costopt-cli", "suspend"))
    ]
    api.instead["PATCH", TINY] = refused(409, "Conflict", "Apply failed with 2 conflicts", causes=causes)
    ended = costopt("submit", "job.yaml")
    assert ended.code == 2
    assert "spec.priceBookName (line " in ended.err
    assert ") by argocd, spec.suspend (line 9) by the command line; take it out of the file, or submit" in ended.err
    del api.instead["PATCH", TINY]
    costopt("submit", "job.yaml", "--force")
    assert api.asked("PATCH", TINY)[-1].query["force"] == "true"


def test_the_manifest_and_the_command_line_must_not_name_two_namespaces(
    api: FakeApi, costopt: Command, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path)
    manifest.write_text(manifest.read_text().replace("  name: tiny\n", "  name: tiny\n  namespace: research\n"))
    ended = costopt("submit", "job.yaml", "-n", "other")
    assert ended.code == 2
    assert "the manifest puts job tiny into namespace research, and --namespace says other" in ended.err
    assert "  costopt watch tiny -n research" in costopt("submit", "job.yaml").out


def test_status_shows_the_same_tables_as_on_a_laptop(api: FakeApi, costopt: Command) -> None:
    add_job(api, status=failed())
    text = costopt("status", "tiny").out
    assert text.startswith("tiny: Failed (InvalidData)")
    assert "Stages" in text
    assert "step 50/100  loss 2.5000" in text
    assert "Correct the data or its settings, then delete the job and submit it again" in text
    assert "`costopt logs tiny --stage train --attempt 0`" in text
    plain = json.loads(costopt("status", "tiny", "--output", "json").out)
    assert plain["failure"]["logTail"] == ["a line", "the last line"]


def test_status_says_that_an_earlier_jobs_cost_is_not_in_the_bill(api: FakeApi, costopt: Command) -> None:
    add_job(api, status=running(continuesFromStep=40, earlierJob={"uid": "u", "pricedCost": "12.5", "currency": "USD"}))
    said = "Training went on from step 40 of an earlier job, whose cost ({}) is not in this bill."
    assert said.format("12.5 USD") in costopt("status", "tiny").out
    add_job(api, status=running(continuesFromStep=40))
    assert said.format("not known") in costopt("status", "tiny").out


def test_status_says_what_replicas_wait_for(api: FakeApi, costopt: Command) -> None:
    owner = add_job(api, status=running())
    unschedulable = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes\nhave a GPU"}
    ]
    for index in (0, 1):
        add_pod(api, owner, "train", 0, index, phase="Pending", conditions=unschedulable)
    assert "train: 2 replicas wait for Unschedulable: 0/3 nodes have a GPU" in costopt("status", "tiny").out


def test_a_status_of_a_newer_operator_is_read_without_what_is_not_known_here(api: FakeApi, costopt: Command) -> None:
    add_job(api, status={**running(), "weather": "fine", "progress": {"step": 1, "totalSteps": 2, "mood": "good"}})
    assert "step 1/2" in costopt("status", "tiny").out
    add_job(api, status={**running(), "startTime": "noon"})
    ended = costopt("status", "tiny")
    assert ended.code == 2
    assert "the status of job tiny cannot be read (status.startTime:" in ended.err


def test_without_a_name_and_a_run_folder_the_jobs_are_listed(api: FakeApi, costopt: Command) -> None:
    assert "There is no job in namespace research" in costopt("status").out
    add_job(api, "one", running(7), suspend=True)
    add_job(api, "two", succeeded())
    add_job(api, "three")
    text = " ".join(costopt("status").out.split())
    assert "one Active, being suspended 7/100 unknown" in text
    assert "two Succeeded 100/100" in text
    assert "three New unknown" in text
    listed = json.loads(costopt("status", "--output", "json").out)
    assert [(entry["namespace"], entry["name"]) for entry in listed] == [
        ("research", name) for name in ("one", "three", "two")
    ]


def test_cost_prints_the_bill(api: FakeApi, costopt: Command) -> None:
    line = {"stage": "train", "resource": "cpu", "cause": "Productive", "consumedUnit": "vCPU-Hours"}
    priced = {"consumedQuantity": "2.0", "listUnitPrice": "0.04", "listCost": "0.08", "priceSource": "a test"}
    bill = {"currency": "USD", "lines": [{**line, **priced}], "listCost": "0.08", "pricedCost": "0.08"}
    add_job(api, status=running(bill=bill))
    text = costopt("cost", "tiny").out
    assert "vCPU-Hours" in text
    assert "Price of cpu: a test" in text
    assert json.loads(costopt("cost", "tiny", "--output", "json").out)["listCost"] == "0.08"
    add_job(api, status=running())
    assert costopt("cost", "tiny").out == "Nothing has been counted yet.\n"


def test_suspend_and_resume_set_one_field(api: FakeApi, costopt: Command) -> None:
    add_job(api, status=running())
    assert "Job tiny is being suspended" in costopt("suspend", "tiny").out
    assert "already" in costopt("suspend", "tiny").out
    assert "Job tiny goes on" in costopt("resume", "tiny").out
    assert "Job tiny is not suspended" in costopt("resume", "tiny").out
    assert [request.body for request in api.asked("PATCH", TINY)] == [
        {"spec": {"suspend": True}},
        {"spec": {"suspend": False}},
    ]
    add_job(api, status=succeeded())
    for verb in ("suspend", "resume"):
        ended = costopt(verb, "tiny")
        assert (ended.code, "has ended (Succeeded)" in ended.err) == (2, True)


def test_a_job_that_its_budget_has_suspended_is_resumed_by_a_larger_one(api: FakeApi, costopt: Command) -> None:
    over = condition("Suspended", "True", "BudgetExceeded", "the budget of 1 USD is used up")
    add_job(api, status=running(conditions=[over]))
    ended = costopt("resume", "tiny")
    assert ended.code == 2
    assert "the budget of 1 USD is used up; raise spec.budget.amount in the manifest of tiny and submit it" in ended.err


def test_delete_names_the_very_job_and_says_what_stays(api: FakeApi, costopt: Command) -> None:
    owner = add_job(api, status=running(), storage={"claimName": "shelf"})
    pod = add_pod(api, owner, "train", 0, 0)
    path = f"{PODS}/{pod['metadata']['name']}"
    looks = iter([True, False])

    def pods() -> tuple[int, dict[str, object]]:
        return 200, {"metadata": {}, "items": [api.stored[path]] if next(looks) else []}

    api.instead["GET", PODS] = pods
    ended = costopt("delete", "tiny", "--wait")
    assert ended.code == 0
    assert "Job tiny deleted. Its cost was unknown." in ended.out
    assert "stay in the claim shelf" in ended.out
    (asked,) = api.asked("DELETE", TINY)
    assert asked.body == {"propagationPolicy": "Background", "preconditions": {"uid": owner["metadata"]["uid"]}}
    assert len(api.asked("GET", PODS)) == 2


@pytest.mark.parametrize(("end", "code"), [(succeeded(), 0), (failed(), 1)])
def test_watch_tells_what_happens_until_the_end(
    api: FakeApi, costopt: Command, monkeypatch: pytest.MonkeyPatch, end: dict[str, object], code: int
) -> None:
    monkeypatch.setattr("costopt.cli.watch.LOOK_EVERY_SECONDS", 0.01)
    owner = add_job(api, status=running())
    busy = refused(503, "ServiceUnavailable", "etcd is away")
    answers = iter([(200, {**owner, "status": running(10)}), busy, busy, (200, {**owner, "status": running(60)})])
    api.instead["GET", TINY] = lambda: next(answers, (200, {**owner, "status": end}))
    ended = costopt("watch", "tiny")
    assert ended.code == code
    assert ended.out.startswith("tiny: Active; train running, attempt 0; step 10/100")
    assert (
        ended.out.count(
            "the cluster of context lab cannot reach its own database at the moment; trying again for up to 10 minutes"
        )
        == 1
    )
    assert "the cluster answers again" in ended.out
    assert "train: step 60/100" in ended.out
    assert ("Succeeded. Job tiny" if code == 0 else "train failed: InvalidData") in ended.out


def test_watch_of_a_job_that_is_deleted_or_interrupted(
    api: FakeApi, costopt: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costopt.cli.watch.LOOK_EVERY_SECONDS", 0.01)
    owner = add_job(api, status=running())
    answers = iter([(200, owner), (200, {**owner, "metadata": {**owner["metadata"], "uid": "another"}})])
    api.instead["GET", TINY] = lambda: next(answers)
    ended = costopt("watch", "tiny")
    assert ended.code == 2
    assert "job tiny was deleted before it ended" in ended.err

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    api.instead.clear()
    monkeypatch.setattr("time.sleep", interrupt)
    ended = costopt("watch", "tiny")
    assert ended.code == 130
    assert "The job goes on. costopt watch tiny shows it again." in ended.err


def test_kubectl_calls_it_as_its_plugin(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()  # would be taken for a run folder by `costopt`
    add_job(api, status=running())
    plugin = command(monkeypatch, capsys, "kubectl-costopt")
    assert plugin("status", "tiny").out.startswith("tiny: Active")
    assert "  kubectl costopt resume tiny -n research" in plugin("suspend", "tiny", "-n", "research").out
    assert "Usage: kubectl costopt" in plugin("--help").out
    assert plugin("run", "job.yaml").code == 2
    assert plugin("cost", "tine").err.startswith("kubectl costopt cost: there is no job tine")
