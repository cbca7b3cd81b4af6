"""A queue such as Kueue admits a job's gang, evicts it, and admits it again, fully or partially. Simulated by hand:
Kueue sets and unsets a batch Job's `suspend`, and uses fewer pods on partial admission."""

import json

import pytest

from builders.cluster import Play
from cluster.rest import MERGE, Json
from cluster.team import LiveJob, Team, condition_of

pytestmark = pytest.mark.usefixtures("operator")

QUEUE = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "high", "team": "a"}


def submitted_to_queue(team: Team, *directions: Play, nodes: int) -> tuple[LiveJob, Json]:
    """A job for the queue, and its batch Job that waits for admission."""
    job = team.submit(*directions, nodes=nodes, labels=QUEUE)
    team.wait_for(job.batch_jobs, "a batch Job for the queue")
    (batch_job,) = job.batch_jobs()
    assert batch_job["spec"]["suspend"] is True
    return job, batch_job


def change(team: Team, attempt: int = 0, **spec: object) -> None:
    """Change the batch Job as the queue does."""
    team.rest.must("PATCH", team.path("jobs", f"tiny-train-a{attempt}"), {"spec": spec}, MERGE)


def settings(team: Team, attempt: int = 0) -> Json:
    """What the replicas of an attempt are told; empty while it is not known."""
    found = team.rest.get(team.path("configmaps", f"tiny-train-a{attempt}"))
    told: Json = json.loads(found["data"]["train.json"]) if found else {}
    return told


def test_a_queue_admits_takes_back_and_admits_again_and_no_attempt_is_counted(team: Team) -> None:
    saved = {"exitCode": 143, "reason": "Preempted", "progress": {"step": 9, "totalSteps": 40}}
    job, batch_job = submitted_to_queue(team, Play(run_seconds="forever", stop_message=saved), nodes=2)
    labels = batch_job["metadata"]["labels"]
    assert {key: labels.get(key) for key in QUEUE} == {**QUEUE, "team": None}
    assert job.pods() == []
    assert condition_of(job.status, "Succeeded")["reason"] in ("Training", "Pending")
    assert settings(team) == {}

    change(team, suspend=False)
    first = {pod["metadata"]["uid"] for pod in job.wait_until_running()}
    team.wait_for(lambda: settings(team), "settings")
    assert settings(team)["numNodes"] == 2

    change(team, suspend=True)
    team.wait_for(lambda: not job.pods(), "all pods ended and recorded")
    status = job.wait_until(lambda status: len(status["usage"]["records"]) == 2, "recorded")
    assert (job.stage()["attempt"], job.stage()["failures"], job.stage()["disruptions"]) == (0, 0, 0)
    assert status["execution"] == 1
    assert len(job.batch_jobs()) == 1

    change(team, suspend=False)
    second = {pod["metadata"]["uid"] for pod in job.wait_until_running()}
    assert not first & second
    assert job.stage()["attempt"] == 0
    job.change(suspend=True)
    job.wait_until_suspended()
    assert len(team.check_usage(job)) == 4
    assert (job.stage()["failures"], job.stage()["disruptions"]) == (0, 0)

    job.change(suspend=False)
    team.wait_for(job.batch_jobs, "a batch Job for the queue again")
    assert [each["spec"]["suspend"] for each in job.batch_jobs()] == [True]


def test_a_gang_admitted_in_part_is_told_how_many_it_is_and_succeeds(team: Team) -> None:
    job, _ = submitted_to_queue(team, nodes=4)
    change(team, suspend=False, parallelism=2, completions=2)
    status = job.wait_until_ended()
    assert settings(team)["numNodes"] == 2
    assert len(team.check_usage(job)) == 2
    assert condition_of(status, "Succeeded")["status"] == "True"


def test_a_gang_admitted_again_in_another_size_is_told_so(team: Team) -> None:
    job, _ = submitted_to_queue(team, Play(run_seconds="forever"), nodes=4)
    for admitted in (4, 2, 3):
        change(team, suspend=False, parallelism=admitted, completions=admitted)
        job.wait_until_running(admitted)
        team.wait_for(lambda size=admitted: settings(team).get("numNodes") == size, f"told that it is {admitted}")
        change(team, suspend=True)
        team.wait_for(lambda: not job.pods(), "all pods ended and recorded")
    assert (job.stage()["attempt"], job.stage()["failures"], job.stage()["disruptions"]) == (0, 0, 0)
    assert len(team.check_usage(job)) == 9


def test_after_a_failure_the_next_attempt_waits_in_the_queue_again(team: Team) -> None:
    job, _ = submitted_to_queue(team, Play(attempt=0, index=1, exit_code=1), nodes=2)
    change(team, suspend=False)
    job.wait_until(lambda _: job.stage()["attempt"] == 1, "at its second attempt")
    team.wait_for(lambda: settings(team) and len(job.batch_jobs()) == 2, "a batch Job of the second attempt")
    assert [each["spec"]["suspend"] for each in job.batch_jobs()] == [False, True]
    assert settings(team, 1) == {}
    change(team, 1, suspend=False)
    job.wait_until_ended()
    assert len(team.check_usage(job)) == 4


def test_a_job_deleted_while_it_waits_in_a_queue_leaves_nothing(team: Team) -> None:
    job, _ = submitted_to_queue(team, nodes=2)
    job.delete()
    job.wait_until_gone()
    team.wait_for(lambda: not team.leftovers(), "nothing left")
