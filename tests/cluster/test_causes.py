"""What a real API server reports about a pod's end, or its wait, reaches the job's user."""

import pytest

from builders.cluster import Play, play
from cluster.team import Team, job_manifest

pytestmark = pytest.mark.usefixtures("operator")

OUT_OF_MEMORY = Play(exit_code=137, reason="OOMKilled", message="")
MERGE = "application/merge-patch+json"


def test_running_out_of_memory_is_told_with_the_limit_and_tried_once_more(team: Team) -> None:
    manifest = job_manifest("tiny", OUT_OF_MEMORY, nodes=1, restarts={"maxFailures": 50})
    manifest["spec"]["train"]["resourcesPerNode"]["limits"] = {"memory": "3Gi"}
    job = team.create(manifest)
    status = job.wait_until_ended("TrainingFailed")
    assert (job.stage()["attempt"], job.stage()["failuresByReason"]) == (1, {"OutOfMemory": 2})
    assert status["failure"]["reason"] == "OutOfMemory"
    # Events are told after the status is written.
    first, last = team.wait_for(lambda: len(told := job.events()) > 1 and told, "both events")
    for message in (status["failure"]["message"], job.condition()["message"], last["message"]):
        assert "the memory limit of its container is 3Gi; raise the memory limit of 3Gi" in message
        assert "2 attempts of train have ended so (OutOfMemory)" in message
    assert first["reason"] == "Restarted"
    assert "memory ran out" in first["message"]
    team.check_usage(job)


def test_a_pod_evicted_for_its_own_disk_is_a_failure_and_one_that_is_drained_is_not(team: Team) -> None:
    own_doing = Play(
        attempt=0,
        exit_code=137,
        pod_reason="Evicted",
        pod_message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
    )
    greedy = team.submit(own_doing, name="greedy", nodes=1)
    drained = team.submit(Play(attempt=0, run_seconds="forever"), name="drained", nodes=1)
    [pod] = drained.wait_until_running(1)
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": team.namespace}}
    team.rest.must("POST", f"{team.path('pods', name)}/eviction", eviction)
    for job, counted, reason, words in (
        (greedy, (1, 0), "StorageLimitExceeded", "exceeds the total limit of containers 1Gi; raise that limit"),
        (drained, (0, 1), "Evicted", "was evicted through the eviction API, as when a node is drained"),
    ):
        status = job.wait_until_ended()
        assert (job.stage()["failures"], job.stage()["disruptions"]) == counted
        assert status["failure"]["reason"] == reason
        assert words in status["failure"]["message"]
        assert words in team.wait_for(job.events, "told")[0]["message"]
        team.check_usage(job)


def test_an_image_that_cannot_be_pulled_is_told_and_once_it_can_the_attempt_goes_on(team: Team) -> None:
    image = "registry.invalid/team/trainer:9"
    said = f'failed to resolve reference "{image}": {image}: not found'
    manifest = job_manifest("tiny", Play(waiting_reason="ErrImagePull", waiting_message=said), nodes=1)
    manifest["spec"]["train"]["image"] = image
    job = team.create(manifest)
    words = f'image "{image}", which cannot be pulled: the registry has no such image'
    job.wait_until(lambda _: words in job.condition().get("message", ""), "telling what it waits for")
    assert job.condition()["reason"] == "Pending"
    [pod] = job.pods()
    pulled = {"metadata": {"annotations": play(Play(message={"exitCode": 0}))}}
    team.rest.must("PATCH", team.path("pods", pod["metadata"]["name"]), pulled, MERGE)
    job.wait_until_ended()
    assert (job.stage()["attempt"], job.stage()["failures"], job.stage()["disruptions"]) == (0, 0, 0)
    assert "failure" not in job.status


def test_a_name_that_is_no_images_ends_the_job_at_once(team: Team) -> None:
    job = team.submit(Play(waiting_reason="InvalidImageName", waiting_message="x"), nodes=1)
    job.wait_until_ended("NotStarted")
    assert "they wait for a valid image name" in job.condition()["message"]


def test_a_job_with_the_priority_of_the_clusters_own_parts_fails_before_it_has_a_pod(team: Team) -> None:
    job = team.submit(nodes=1, pods={"priorityClassName": "system-node-critical"})
    status = job.wait_until_ended("TrainingFailed")
    assert "pods.priorityClassName must not be system-node-critical" in status["failure"]["message"]
    assert "use a PriorityClass of your own" in job.condition()["message"]
    assert job.pods() == []
