"""A job that is hard to read is still limited, and one that cannot be read does not run on."""

from collections.abc import Iterator
from typing import Any

import pytest

from builders.cluster import Play
from cluster.team import LiveJob, Team, condition_of, job_manifest

pytestmark = pytest.mark.usefixtures("operator")

FOREVER = Play(run_seconds="forever")
POLICIES = "/apis/admissionregistration.k8s.io/v1"


def test_a_job_with_more_marks_of_its_queue_than_are_read_is_limited_like_any(team: Team) -> None:
    manifest = job_manifest("marked", FOREVER)
    manifest["metadata"]["annotations"] = {f"kueue.x-k8s.io/a{number}": "x" for number in range(100)}
    job = team.create(manifest)
    job.wait_until_running()
    job.change(suspend=True)
    job.wait_until_suspended()
    team.check_usage(job)


def test_numbers_that_no_status_can_hold_are_passed_over(team: Team) -> None:
    said: dict[str, Any] = {"exitCode": 1, "rank": 2**63, "progress": {"step": 2**63, "totalSteps": 10**400}}
    job = team.submit(Play(attempt=0, index=1, run_seconds=1, exit_code=1, message=said))
    job.wait_until_ended()
    assert job.stage()["failures"] == 1
    team.check_usage(job)


def test_a_job_that_leaves_no_room_for_its_status_fails_at_its_beginning(team: Team) -> None:
    manifest = job_manifest("large")
    train = manifest["spec"]["train"]
    del train["recipe"], manifest["spec"]["compress"]
    train["command"] = ["\x01" * 4096] * 32  # each is six characters where it is kept
    manifest["metadata"]["annotations"] = {"notes": "x" * 200_000}
    job = team.create(manifest)
    status = job.wait_until_ended("TrainingFailed")
    assert (
        "spec, labels and annotations together must be at most 900 KiB" in condition_of(status, "Succeeded")["message"]
    )
    assert job.pods() == job.batch_jobs() == []


def test_a_job_without_a_price_begins_nothing_until_it_has_one(team: Team) -> None:
    book = f"{team.namespace}-late"
    job = team.submit(priceBookName=book, budget={"amount": "100"})
    status = job.wait_until_suspended("PriceUnknown")
    assert f"the price book {book} was not found" in condition_of(status, "Suspended")["message"]
    assert team.pods_ever(job) == []
    team.apply_book(book)
    assert job.wait_until_ended()["execution"] == 1
    team.check_usage(job)


def test_a_stop_for_the_budget_cuts_a_grace_period_of_a_day(team: Team) -> None:
    book = f"{team.namespace}-dear"
    row = {"effectiveFrom": "2026-01-01", "source": "a bad dream", "listUnitPrice": "1000000"}
    rows = [{"resource": "cpu", "unit": "vCPU-Hours", **row}, {"resource": "memory", "unit": "GiB-Hours", **row}]
    team.apply_book(book, prices=rows)
    grace = {"terminationGracePeriodSeconds": 86400}
    job = team.submit(FOREVER, pods=grace, priceBookName=book, budget={"amount": "100"})
    job.wait_until_suspended("BudgetExceeded")
    team.check_usage(job)
    assert {pod["metadata"]["deletionGracePeriodSeconds"] for pod in team.pods_ever(job)} <= set(range(601))


@pytest.fixture
def refusal(team: Team) -> Iterator[LiveJob]:
    """A running job whose status nobody may write any more."""
    job = team.submit(FOREVER, name="refused")
    job.wait_until_running()
    name = f"{team.namespace}-refusal"
    rule = {
        "apiGroups": ["costopt.dev"],
        "apiVersions": ["v1alpha1"],
        "operations": ["UPDATE"],
        "resources": ["costoptjobs/status"],
    }
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": team.namespace}}}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule], **here},
            "validations": [{"expression": "false", "message": "this status may not be written"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": here},
    }
    try:
        team.rest.must("POST", f"{POLICIES}/validatingadmissionpolicies", policy)
        team.rest.must("POST", f"{POLICIES}/validatingadmissionpolicybindings", binding)
        yield job
    finally:
        team.rest.send("DELETE", f"{POLICIES}/validatingadmissionpolicybindings/{name}")
        team.rest.send("DELETE", f"{POLICIES}/validatingadmissionpolicies/{name}")


def test_a_job_whose_status_is_refused_is_stopped_with_a_checkpoint_and_recorded_later(
    team: Team, refusal: LiveJob
) -> None:
    name = f"{team.namespace}-refusal"
    team.wait_for(lambda: _is_refused(team, refusal), "refused")
    refusal.change(budget={"amount": "1000000"})
    team.wait_for(lambda: refusal.batch_jobs() == [], "its gang stopped", 240)
    event = refusal.event("CannotBeLookedAt")
    assert "this status may not be written" in event["message"]
    assert not any(condition_of(refusal.status, "BudgetExceeded"))
    team.rest.must("DELETE", f"{POLICIES}/validatingadmissionpolicybindings/{name}")
    team.wait_for(lambda: not _is_refused(team, refusal), "allowed")
    refusal.change(suspend=True)
    refusal.wait_until_suspended()
    team.check_usage(refusal)


def _is_refused(team: Team, job: LiveJob) -> bool:
    document = job.document
    assert document is not None
    path = f"{team.path('costoptjobs', job.name)}/status?dryRun=All"
    return not team.rest.send("PUT", path, document).ok
