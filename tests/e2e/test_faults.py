"""What goes wrong on a node: the training ends in the same bits, each pod is billed once, and the cause is told."""

import signal
from typing import Any

import pytest

from cluster.team import LiveJob, Team
from e2e.figures import Since
from e2e.images import TRAINER_IMAGE
from e2e.installation import Installation
from e2e.jobs import (
    SECONDS,
    STEPS,
    Storage,
    claim_of,
    describe,
    event_reasons,
    processes_of,
    script,
    send,
    submit,
    training,
    wait_for,
)
from e2e.node_files import NODE
from e2e.real_cluster import RealCluster

RANK = "costopt_trainer.worker"
"""Words in the command line of a rank."""
STALL_SECONDS = 20
GRACE_SECONDS = 10
"""What a gang that broke is given to end."""


def under_way(node: RealCluster, team: Team, **spec: Any) -> tuple[LiveJob, Storage, list[dict[str, Any]]]:
    """A training with its first checkpoint written, and its pods."""
    job, storage = submit(node, team, training(**spec))
    wait_for(lambda: storage.newest_step() or _ended(job), f"{job.name} at its first checkpoint")
    return job, storage, job.wait_until_running()


def gone_on(job: LiveJob, pods: list[dict[str, Any]]) -> bool:
    """Other pods of the job run than these, and as many."""
    before = {pod["metadata"]["uid"] for pod in pods}
    running = [pod for pod in job.pods() if pod["status"]["phase"] == "Running"]
    return len([pod for pod in running if pod["metadata"]["uid"] not in before]) == len(before)


def _ended(job: LiveJob) -> bool:
    return any(each["type"] == "Succeeded" and each["status"] == "False" for each in job.status.get("conditions", []))


def ended_as_if_undisturbed(
    team: Team, job: LiveJob, storage: Storage, undisturbed: str, *, blind: float = 0
) -> dict[str, Any]:
    """Its status; `blind` as in `check_usage`."""
    status = job.wait_until_ended(seconds=SECONDS)
    assert status["progress"]["step"] == STEPS, describe(status)
    team.check_usage(job, blind=blind)
    assert storage.weights() == undisturbed
    wait_for(lambda: not [pod for pod in job.pods() if pod["status"]["phase"] == "Running"], "no orphan")
    return status


def counted(status: dict[str, Any]) -> tuple[int, int]:
    """Failures and disruptions of training."""
    train = next(stage for stage in status["stages"] if stage["name"] == "train")
    return train.get("failures", 0), train.get("disruptions", 0)


def outcomes(job: LiveJob) -> dict[int, list[str]]:
    """Outcomes of the usage records, by attempt."""
    found: dict[int, list[str]] = {}
    for record in job.status["usage"]["records"]:
        found.setdefault(record["attempt"], []).append(record["outcome"])
    return {attempt: sorted(each) for attempt, each in found.items()}


def test_a_killed_rank_is_started_anew_in_its_pod_and_the_weights_are_the_same(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    job, storage, pods = under_way(node, team)
    assert send(pods[1], RANK, signal.SIGKILL) == 1
    since = Since("SIGKILL of a rank that may be started anew in place")
    since.until(lambda: job.stage().get("inPlaceRestarts", 0) == 1, "its gang trains again")
    assert {pod["metadata"]["uid"] for pod in job.pods()} == {pod["metadata"]["uid"] for pod in pods}
    status = ended_as_if_undisturbed(team, job, storage, undisturbed)
    assert counted(status) == (0, 0)
    assert outcomes(job)[0] == ["Succeeded", "Succeeded"]


def test_a_killed_rank_is_one_failure_and_the_weights_are_the_same(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    job, storage, pods = under_way(node, team, restarts={"inPlace": 0})
    assert send(pods[1], RANK, signal.SIGKILL) == 1
    since = Since("SIGKILL of a rank")
    since.until(lambda: gone_on(job, pods), "the pods of the next attempt run")
    status = ended_as_if_undisturbed(team, job, storage, undisturbed)
    assert counted(status) == (1, 0)
    assert "SIGKILL" in messages(job)
    assert outcomes(job)[0] == ["Failed", "Failed"]


def test_a_deleted_pod_is_a_disruption_and_the_weights_are_the_same(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    job, storage, pods = under_way(node, team)
    node.kubectl("delete", "pod", pods[0]["metadata"]["name"], "--wait=false", namespace=team.namespace)
    since = Since("a pod is deleted")
    since.until(lambda: gone_on(job, pods), "the pods of the next attempt run")
    status = ended_as_if_undisturbed(team, job, storage, undisturbed)
    assert counted(status) == (0, 1)
    assert "Disrupted" in event_reasons(job)


def test_a_frozen_rank_is_found_and_its_nodes_are_free_within_the_short_grace(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    job, storage, pods = under_way(node, team, restarts={"stallTimeoutSeconds": STALL_SECONDS})
    assert send(pods[0], RANK, signal.SIGSTOP) >= 1
    since = Since(f"a rank is frozen (SIGSTOP), stallTimeoutSeconds {STALL_SECONDS}")
    since.until(lambda: job.stage().get("state") == "Stopping" or gone_on(job, pods), "it is found")
    decided = Since("a frozen gang is told to end")
    took = decided.until(
        lambda: not processes_of(pods[0], RANK) and not processes_of(pods[1], RANK), "its nodes are free"
    )
    assert took < GRACE_SECONDS + 15
    since.until(lambda: gone_on(job, pods), "the pods of the next attempt run")
    status = ended_as_if_undisturbed(team, job, storage, undisturbed)
    assert counted(status) == (1, 0)
    assert f"no replica of train finished a step or logged a line for {STALL_SECONDS} s" in messages(job)
    assert processes_of(pods[0], RANK) == []


def test_a_pod_that_runs_out_of_memory_is_told_so_and_is_not_tried_for_ever(
    installation: Installation, team: Team
) -> None:
    manifest = script("greedy", "held = [bytearray(1 << 20) for _ in range(4096)]")
    limits = {"cpu": "500m", "memory": "96Mi"}
    manifest["spec"]["train"]["resourcesPerNode"] = {"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": limits}
    job = team.create(manifest)
    status = wait_for(lambda: _ended(job) and job.status, "failed", 180)
    assert counted(status) == (2, 0), describe(status)  # one more attempt, unchanged, and no third
    assert "memory" in status["failure"]["message"]
    assert "96Mi" in status["failure"]["message"]
    assert status["failure"]["reason"] == "OutOfMemory"
    assert [sorted(each) for each in outcomes(job).values()] == [["Failed"], ["Failed"]]
    wait_for(lambda: "96Mi" in messages(job), "told in an event")
    team.check_usage(job)


def test_an_image_that_cannot_be_pulled_is_told_and_the_attempt_goes_on_when_it_can(
    node: RealCluster, team: Team
) -> None:
    manifest = script("later", "print('done')")
    manifest["spec"]["train"]["image"] = "costopt-later:1"
    job = team.create(manifest)
    wait_for(lambda: "costopt-later:1" in str(job.status.get("conditions")), "waiting for its image by name")
    node.name_image(TRAINER_IMAGE, "costopt-later:1")
    status = job.wait_until_ended(seconds=120)
    assert counted(status) == (0, 0), describe(status)
    assert [record["attempt"] for record in team.check_usage(job)] == [0]


def test_a_drained_node_is_a_disruption_and_training_goes_on_when_it_is_back(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    job, storage, _ = under_way(node, team)
    selector = f"--pod-selector=costopt.dev/job={job.name}"
    try:
        node.kubectl("drain", NODE, selector, "--delete-emptydir-data", "--disable-eviction=false", "--timeout=60s")
        wait_for(lambda: job.stage().get("attempt") == 1, "restarted")
        wait_for(lambda: "a node" in str(job.status.get("conditions")), "waiting for a node")
    finally:
        node.kubectl("uncordon", NODE)
    status = ended_as_if_undisturbed(team, job, storage, undisturbed)
    assert counted(status) == (0, 1), describe(status)
    assert outcomes(job)[0] == ["Disrupted", "Disrupted"]


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_volume_that_cannot_be_written_ends_the_job_with_a_sentence_and_nothing_is_lost(
    node: RealCluster, team: Team, undisturbed: str, trouble: str
) -> None:
    """No attempt could mend it, so none is paid for. The same job, created again, goes on where it was."""
    with node.small_volume(claim_of(team, training())) as volume:
        storage = Storage(volume.folder)
        job = team.create(training())
        wait_for(storage.newest_step, "at its first checkpoint")
        volume.fill() if trouble == "full" else volume.refuse_writes()
        since = Since(f"the volume is {trouble}")
        since.until(lambda: _ended(job), "the job has ended and says so")
        words = "No space left on device" if trouble == "full" else "Read-only file system"
        assert words in job.status["failure"]["message"], describe(job.status)
        wait_for(lambda: words in messages(job), "told in an event")
        team.check_usage(job)
        saved = storage.newest_step()
        assert 0 < saved < STEPS
        volume.allow_writes()
        job.delete()
        job.wait_until_gone()
        again = team.create(training())
        status = ended_as_if_undisturbed(team, again, storage, undisturbed)
        assert status["progress"]["resumedFromStep"] == saved
        assert counted(status) == (0, 0), describe(status)


def messages(job: LiveJob) -> str:
    """What the events about a job say."""
    return "\n".join(str(event["message"]) for event in job.events())
