"""What goes wrong on a node: the training ends in the same bits, each pod is billed once, and the cause is told."""

import signal
from typing import Any

from cluster.team import LiveJob, Team
from e2e.jobs import SECONDS, STEPS, Storage, describe, event_reasons, processes_of, send, submit, training, wait_for
from e2e.real_cluster import RealCluster

RANK = "costopt_trainer.worker"
"""Words in the command line of a rank."""


def under_way(node: RealCluster, team: Team, **spec: Any) -> tuple[LiveJob, Storage, list[dict[str, Any]]]:
    """A training with its first checkpoint written, and its pods."""
    job, storage = submit(node, team, training(**spec))
    wait_for(lambda: storage.newest_step() or _ended(job), f"{job.name} at its first checkpoint")
    return job, storage, job.wait_until_running(seconds=30)


def _ended(job: LiveJob) -> bool:
    return any(each["type"] == "Succeeded" and each["status"] == "False" for each in job.status.get("conditions", []))


def ended_as_if_undisturbed(team: Team, job: LiveJob, storage: Storage, undisturbed: str) -> dict[str, Any]:
    status = job.wait_until_ended(seconds=SECONDS)
    assert status["progress"]["step"] == STEPS, describe(status)
    team.check_usage(job)
    assert storage.weights() == undisturbed
    wait_for(lambda: not [pod for pod in job.pods() if pod["status"]["phase"] == "Running"], "no orphan", 60)
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


def test_a_killed_rank_is_one_failure_and_the_weights_are_the_same(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    job, storage, pods = under_way(node, team)
    assert send(pods[1], RANK, signal.SIGKILL) == 1
    status = ended_as_if_undisturbed(team, job, storage, undisturbed)
    assert counted(status) == (1, 0)
    assert "SIGKILL" in str(job.events())
    assert outcomes(job)[0] == ["Failed", "Failed"]


def test_a_deleted_pod_is_a_disruption_and_the_weights_are_the_same(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    job, storage, pods = under_way(node, team)
    node.kubectl("delete", "pod", pods[0]["metadata"]["name"], "--wait=false", namespace=team.namespace)
    status = ended_as_if_undisturbed(team, job, storage, undisturbed)
    assert counted(status) == (0, 1)
    assert "Disrupted" in event_reasons(job)


def test_a_frozen_rank_is_found_and_its_nodes_are_free_within_the_short_grace(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    job, storage, pods = under_way(node, team, restarts={"stallTimeoutSeconds": 20})
    assert send(pods[0], RANK, signal.SIGSTOP) >= 1
    status = ended_as_if_undisturbed(team, job, storage, undisturbed)
    assert counted(status) == (1, 0)
    assert "Stalled" in str(job.events()) or "stall" in str(job.events())
    assert processes_of(pods[0], RANK) == []
