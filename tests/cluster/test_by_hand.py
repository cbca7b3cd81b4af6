"""People and other programs change a job's objects while it runs: the job still ends correctly."""

import itertools
import json
from contextlib import AbstractContextManager

import pytest

from builders.charts import objects_of, rendered
from builders.cluster import Play
from builders.operator_process import ACCOUNT, NAMESPACE, OperatorProcess
from builders.waiting import meanwhile
from cluster.rest import MERGE, Rest
from cluster.team import Team, condition_of

pytestmark = pytest.mark.usefixtures("operator")

FIRST_STAYS = Play(stage="train", attempt=0, run_seconds="forever")
OPERATOR_USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"


def test_a_batch_job_deleted_by_hand_is_a_disruption_and_the_next_attempt_has_another(team: Team) -> None:
    job = team.submit(FIRST_STAYS)
    job.wait_until_running()
    team.rest.must("DELETE", team.path("jobs", "tiny-train-a0"), {"propagationPolicy": "Background"})
    job.wait_until_ended()
    assert (job.stage()["attempt"], job.stage()["failures"], job.stage()["disruptions"]) == (1, 0, 1)
    assert len(team.check_usage(job)) == 4
    assert [each["metadata"]["name"] for each in job.batch_jobs()] == ["tiny-train-a1"]


def test_pods_whose_batch_job_is_gone_work_on_and_are_deleted_with_their_job(team: Team) -> None:
    suspended, deleted = (team.submit(Play(execution=1, run_seconds="forever"), name=name) for name in ("on", "off"))
    for job in (suspended, deleted):
        job.wait_until_running()
        team.rest.must("DELETE", team.path("jobs", f"{job.name}-train-a0"), {"propagationPolicy": "Orphan"})
    team.wait_for(lambda: not suspended.batch_jobs() and not deleted.batch_jobs(), "no batch Jobs")
    suspended.change(suspend=True)
    deleted.delete()
    suspended.wait_until_suspended()
    deleted.wait_until_gone()
    assert (suspended.stage()["failures"], suspended.stage()["disruptions"]) == (0, 0)
    suspended.change(suspend=False)
    suspended.wait_until_ended()
    assert len(team.check_usage(suspended)) == 4


def test_a_service_deleted_by_hand_is_made_again_while_its_gang_runs(team: Team) -> None:
    job = team.submit(Play(run_seconds="forever"))
    job.wait_until_running()
    path = team.path("services", "tiny-train-a0")
    before = team.rest.must("GET", path)["metadata"]["uid"]
    team.rest.must("DELETE", path)
    team.wait_for(lambda: (found := team.rest.get(path)) and found["metadata"]["uid"] != before, "another Service")
    assert job.stage()["attempt"] == 0


def test_settings_and_network_policy_deleted_by_hand_do_not_harm_the_next_attempt(team: Team) -> None:
    job = team.submit(FIRST_STAYS, variants=("int8",))
    pods = job.wait_until_running()
    team.rest.must("DELETE", team.path("configmaps", "tiny-train-a0"))
    team.rest.must("DELETE", team.path("networkpolicies", "tiny-peers"))
    team.rest.must("DELETE", team.path("pods", pods[0]["metadata"]["name"]))
    job.wait_until_ended()
    assert job.stage()["disruptions"] == 1
    assert [each["metadata"]["name"] for each in team.objects("configmaps")] == ["tiny-train-a1"]
    assert [each["metadata"]["name"] for each in team.objects("networkpolicies")] == ["tiny-peers"]
    team.check_usage(job)


def test_pods_deleted_at_every_moment_are_each_counted_once(team: Team) -> None:
    """Before they run, while they run, while others end, and by force."""
    jobs = [
        team.submit(Play(attempt=0, start_seconds=60), name="early"),
        team.submit(FIRST_STAYS, Play(attempt=0, index=1, run_seconds=0.5), name="half-done"),
        team.submit(FIRST_STAYS, name="by-force"),
    ]
    early, half_done, by_force = jobs
    team.wait_for(lambda: len([pod for pod in early.pods() if "nodeName" in pod["spec"]]) == 2, "placed pods")
    for pod in early.pods():
        team.rest.must("DELETE", team.path("pods", pod["metadata"]["name"]))
    by_force.wait_until_running()
    name = by_force.pods()[0]["metadata"]["name"]
    team.control_plane.kubectl("delete", "pod", name, "--force", "--grace-period=0", namespace=team.namespace)
    team.wait_for(
        lambda: "Succeeded" in {pod["status"].get("phase") for pod in half_done.pods()}, "one pod that is done"
    )
    for pod in half_done.pods():
        team.rest.must("DELETE", team.path("pods", pod["metadata"]["name"]))

    # A pod deleted by force may or may not have its end told before it is gone.
    for job, estimated in zip(jobs, (2, 0, None), strict=True):
        job.wait_until_ended()
        assert (job.stage()["failures"], job.stage()["disruptions"]) == (0, 1), job.name
        assert len(team.check_usage(job, estimated=estimated)) == 4


def test_a_finished_job_stays_as_it_is_whatever_is_deleted_of_it(team: Team) -> None:
    job = team.submit(variants=("int8",))
    status = job.wait_until_ended()
    team.check_usage(job)
    for child in ("jobs", "pods", "configmaps", "services", "networkpolicies"):
        for found in team.objects(child):
            team.rest.send("DELETE", team.path(child, found["metadata"]["name"]), {"propagationPolicy": "Background"})
    team.wait_for(lambda: not team.leftovers(), "nothing left but the job")
    later = team.submit(name="later")
    later.wait_until_ended()
    assert {left.partition("later")[1] for left in team.leftovers()} == {"later"}
    assert job.status == status | {"bill": job.status["bill"]}
    team.check_usage(job)


def somebody_who_edits(team: Team, name: str) -> AbstractContextManager[None]:
    """Labels the job all the time."""
    rest, counts = Rest(team.control_plane.kubeconfig), itertools.count(1)

    def edit() -> None:
        rest.send("PATCH", team.path("costoptjobs", name), {"metadata": {"labels": {"n": str(next(counts))}}}, MERGE)

    return meanwhile(edit, 0.01)


def test_a_job_that_somebody_else_edits_all_the_time_goes_on(team: Team) -> None:
    said = {"exitCode": 1, "reason": "ProcessFailed", "message": "a crash", "rank": 0}
    job = team.submit(Play(stage="train", attempt=0, exit_code=1, message=said), variants=("int8",))
    since = team.control_plane.audit_offset()
    with somebody_who_edits(team, job.name):
        job.wait_until_ended()
        team.check_usage(job)
    answers = team.control_plane.count_writes("namespace", "resource", "code", since=since, user=OPERATOR_USER)
    assert answers[team.namespace, "costoptjobs", "200"] <= 12
    assert job.stage()["attempt"] == 1
    job.wait_until_told("Restarted", "Completed")


def test_a_definition_applied_anew_with_another_field_leaves_running_jobs_alone(
    team: Team, operator: OperatorProcess
) -> None:
    job = team.submit(Play(execution=1, run_seconds="forever"))
    job.wait_until_running()
    before = job.status
    (definition,) = [
        one for one in objects_of("CustomResourceDefinition", rendered()) if "costoptjobs" in one["metadata"]["name"]
    ]
    newer = json.loads(json.dumps(definition))
    schema = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    schema["spec"]["properties"]["motto"] = {"type": "string", "default": "onward"}
    try:
        team.control_plane.apply(newer)
        team.wait_for(lambda: "motto" in ((job.document or {})["spec"]), "defaulted")
        team.submit(name="new", variants=("int8",)).wait_until_ended()
        job.change(suspend=True)
        job.wait_until_suspended()
        assert [stage["attempt"] for stage in job.status["stages"]] == [stage["attempt"] for stage in before["stages"]]
    finally:
        team.control_plane.apply(definition)
    job.change(suspend=False)
    status = job.wait_until_ended()
    assert condition_of(status, "Succeeded")["status"] == "True"
    assert operator.is_acting()
