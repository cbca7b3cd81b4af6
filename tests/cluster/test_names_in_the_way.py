"""Another object has a child's name, for a while or forever: condition and Event name it, and the job goes on."""

import pytest

from cluster.rest import MERGE, Json
from cluster.team import LiveJob, Team, condition_of
from costopt import names

pytestmark = pytest.mark.usefixtures("operator")

CLAIM: Json = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}


def wait_until_told(job: LiveJob, reason: str, what: str, words: str) -> None:
    job.wait_until(lambda status: words in condition_of(status, "Succeeded").get("message", ""), words)
    event = job.event(reason)
    assert f"the {what}" in event["message"]


def test_a_claim_that_is_being_deleted_and_kept_by_something_is_named(team: Team) -> None:
    kept = {"name": "tiny-storage", "labels": {**names.MANAGED_BY, names.LABEL_JOB: "tiny"}, "finalizers": ["e.x/keep"]}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": kept, "spec": CLAIM}
    team.rest.must("POST", team.path("persistentvolumeclaims"), claim)
    team.rest.must("DELETE", team.path("persistentvolumeclaims", "tiny-storage"))
    job = team.submit(storage={"create": {"size": "1Gi", "accessMode": "ReadWriteMany"}})
    wait_until_told(
        job,
        "NotGoneYet",
        "PersistentVolumeClaim tiny-storage",
        "waits for: the PersistentVolumeClaim tiny-storage that is being deleted",
    )
    path = team.path("persistentvolumeclaims", "tiny-storage")
    team.rest.must("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
    job.wait_until_ended()


def test_a_policy_of_another_job_that_lives_is_a_name_taken(team: Team) -> None:
    other = team.submit(name="tiny-peers", suspend=True)
    reference = {"apiVersion": "costopt.dev/v1alpha1", "kind": "CostOptJob", "name": "tiny-peers", "uid": other.uid}
    metadata = {
        "name": "tiny-peers",
        "labels": {**names.MANAGED_BY, names.LABEL_JOB: "tiny-peers"},
        "ownerReferences": [{**reference, "controller": True}],
    }
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata}
    team.rest.must("POST", team.path("networkpolicies"), {**policy, "spec": {"podSelector": {}}})
    job = team.submit()
    wait_until_told(
        job, "NameTaken", "NetworkPolicy tiny-peers", "waits for: the name tiny-peers, which a NetworkPolicy has"
    )
    team.rest.must("DELETE", team.path("networkpolicies", "tiny-peers"))
    job.wait_until_ended()
