"""Ownership: an object that is not the job's by its owner's uid is never changed, owned or deleted, whatever its name
or labels say. The job waits, says so, and goes on by itself."""

from typing import Any

import pytest

from builders.cluster import Play
from builders.operator_process import OperatorProcess
from cluster.rest import MERGE, Json
from cluster.team import TRAINED, LiveJob, Team, condition_of
from costopt import names

pytestmark = pytest.mark.usefixtures("operator")

CLAIM = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
WITH_A_CLAIM: Json = {"storage": {"create": {"size": "1Gi", "accessMode": "ReadWriteMany"}}}
CONTAINER = {"name": "main", "image": "registry.invalid/any:1"}
FOREIGN: dict[str, tuple[str, str, Json]] = {
    "NetworkPolicy": ("networkpolicies", "tiny-peers", {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
    "ConfigMap": ("configmaps", "tiny-train-a0", {"data": {"of": "somebody"}}),
    "Service": ("services", "tiny-train-a0", {"spec": {"clusterIP": "None", "selector": {"app": "a"}}}),
    "PersistentVolumeClaim": ("persistentvolumeclaims", "tiny-storage", {"spec": {**CLAIM, "volumeName": "nowhere"}}),
    "Job": (
        "jobs",
        "tiny-train-a0",
        {"spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}}},
    ),
}
"""By kind: plural, the name that the job `tiny` wants, and something of somebody else's."""
APIS = {"NetworkPolicy": "networking.k8s.io/v1", "Job": "batch/v1"}


def put_foreign(team: Team, kind: str, **metadata: Any) -> Json:
    plural, name, rest = FOREIGN[kind]
    manifest = {"apiVersion": APIS.get(kind, "v1"), "kind": kind, "metadata": {"name": name, **metadata}, **rest}
    team.rest.must("POST", team.path(plural), manifest)
    if kind == "Job":
        seen = lambda: team.rest.must("GET", team.path(plural, name)).get("status", {}).get("conditions")  # noqa: E731
        team.wait_for(seen, "seen by the Job controller, which writes that it is suspended")
    return foreign(team, kind)


def foreign(team: Team, kind: str) -> Json:
    """As it is now, without what its own controllers count."""
    plural, name, _ = FOREIGN[kind]
    found = team.rest.must("GET", team.path(plural, name))
    return {key: value for key, value in found.items() if key != "status"}


def remove_foreign(team: Team, kind: str) -> None:
    plural, name, _ = FOREIGN[kind]
    team.rest.must("DELETE", team.path(plural, name), {"propagationPolicy": "Background"})


def submit_for(team: Team, kind: str) -> LiveJob:
    """A job that wants to make an object of this kind."""
    return team.submit(**(WITH_A_CLAIM if kind == "PersistentVolumeClaim" else {}))


def wait_until_it_says_so(team: Team, job: LiveJob, kind: str) -> None:
    name = FOREIGN[kind][1]
    words = f"waits for: the name {name}, which a {kind} has that is not this job's"
    job.wait_until(lambda status: words in condition_of(status, "Succeeded").get("message", ""), "waiting for the name")
    assert job.stage()["phase"].startswith(f"waiting for the name {name}")
    event = job.event("NameTaken")
    assert event["type"] == "Warning"
    assert f"the {kind} {name} is not this job's" in event["message"]
    assert "or create the job under another name" in event["message"]
    assert job.pods() == []


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_object_of_somebody_else_is_left_as_it_is_and_the_job_goes_on_when_it_is_gone(team: Team, kind: str) -> None:
    before = put_foreign(team, kind)
    job = submit_for(team, kind)
    wait_until_it_says_so(team, job, kind)
    assert foreign(team, kind) == before
    remove_foreign(team, kind)
    job.wait_until_ended()


@pytest.mark.parametrize("kind", FOREIGN)
def test_labels_make_nothing_a_jobs_own_and_its_deletion_takes_nothing_with_it(team: Team, kind: str) -> None:
    labels = {**names.MANAGED_BY, names.LABEL_JOB: "another", names.LABEL_STAGE: "train", names.LABEL_ATTEMPT: "0"}
    put_foreign(team, kind, labels=labels)
    job = submit_for(team, kind)
    team.rest.must(
        "PATCH", team.path(*FOREIGN[kind][:2]), {"metadata": {"labels": {names.LABEL_JOB_UID: job.uid}}}, MERGE
    )
    before = foreign(team, kind)
    wait_until_it_says_so(team, job, kind)
    job.delete()
    team.wait_for(job.is_gone, "the job gone")
    mine = {f"{plural}/{name}" for plural, name, _ in (FOREIGN[kind],)}
    team.wait_for(lambda: set(team.leftovers()) <= mine, "its own children gone")
    assert foreign(team, kind) == before


def test_a_job_of_the_name_of_a_network_policy_leaves_it_alone(team: Team) -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "default-deny"}}
    team.rest.must("POST", team.path("networkpolicies"), policy | {"spec": {"podSelector": {}}})
    before = team.rest.get(team.path("networkpolicies", "default-deny"))
    job = team.submit(name="default-deny")
    job.wait_until_ended()
    job.delete()
    team.wait_for(lambda: not team.leftovers(), "all of the job's gone")
    assert team.rest.get(team.path("networkpolicies", "default-deny")) == before


def test_settings_of_an_admitted_gang_are_not_written_over_what_somebody_else_has(team: Team) -> None:
    job = team.submit(labels={names.QUEUE_NAME_LABEL: "gpus"})
    team.wait_for(job.batch_jobs, "a batch Job for the queue")
    before = put_foreign(team, "ConfigMap")
    team.rest.must("PATCH", team.path("jobs", "tiny-train-a0"), {"spec": {"suspend": False}}, MERGE)
    team.wait_for(lambda: [one for one in job.events() if one["reason"] == "NameTaken"], "told")
    assert foreign(team, "ConfigMap") == before
    remove_foreign(team, "ConfigMap")
    job.wait_until_ended()
    (settings,) = team.objects("configmaps")
    assert settings["metadata"]["ownerReferences"][0]["uid"] == job.uid


def test_a_job_made_anew_at_once_waits_for_the_children_of_the_one_before_and_then_runs(team: Team) -> None:
    first = team.submit(Play(run_seconds="forever", stop_seconds=3), **WITH_A_CLAIM)
    first.wait_until_running()
    first.delete()
    team.wait_for(first.is_gone, "the first gone")
    second = team.submit(**WITH_A_CLAIM)
    second.wait_until_ended()
    assert not [event for event in second.events() if event["reason"] == "NameTaken"]
    (settings,) = team.objects("configmaps")
    assert settings["metadata"]["ownerReferences"][0]["uid"] == second.uid
    (claim,) = team.objects("persistentvolumeclaims")
    assert "ownerReferences" not in claim["metadata"]


def test_pods_that_were_made_nobodys_while_no_operator_looked_are_the_jobs_and_it_ends_with_them(
    team: Team, operator: OperatorProcess
) -> None:
    job = team.submit(Play(stage="train", run_seconds=20, message=TRAINED))
    job.wait_until_running()
    job.wait_until(lambda status: len(status.get("usage", {}).get("held", [])) > 0, "what it holds written down")
    operator.kill()
    team.rest.must("DELETE", team.path("jobs", "tiny-train-a0"), {"propagationPolicy": "Orphan"})
    owners = lambda: [pod["metadata"].get("ownerReferences") for pod in job.pods()]  # noqa: E731
    team.wait_for(lambda: owners() == [None, None] and not job.batch_jobs(), "pods without an owner")
    operator.start()
    operator.wait_until_acting()
    job.wait_until_ended()
    assert len(team.check_usage(job)) == 2
    assert (job.stage()["attempt"], job.stage()["failures"], job.stage()["disruptions"]) == (0, 0, 0)
