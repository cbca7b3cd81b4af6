"""The kubelet is away, or clocks disagree: nothing that nobody could see counts against a job."""

import time

import pytest

from cluster.team import Team
from e2e.figures import Since
from e2e.installation import DEPLOYMENT, Installation
from e2e.jobs import HEARD_AGAIN_SECONDS, SECONDS, describe, script, submit, training, wait_for
from e2e.node_files import FAKE_TIME_IN_POD
from e2e.real_cluster import RealCluster
from e2e.test_faults import counted, ended_as_if_undisturbed, outcomes, under_way

PRINTS_EVERY_SECOND = """
import json, time
for step in range(1, {seconds} + 1):
    time.sleep(1)
    print(json.dumps({{"step": step, "totalSteps": {seconds}, "loss": str(1 / step)}}), flush=True)
"""
SLIPPED_SECONDS = 5


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [30, 90])
def test_a_kubelet_that_comes_back_costs_nothing(node: RealCluster, team: Team, undisturbed: str, seconds: int) -> None:
    job, storage, _ = under_way(node, team, restarts={"stallTimeoutSeconds": 20})
    talker = team.create(
        script("talker", PRINTS_EVERY_SECOND.format(seconds=seconds + 30), restarts={"stallTimeoutSeconds": 20})
    )
    talker.wait_until_running(pods=1)
    node.stop_kubelet()
    time.sleep(seconds)
    node.start_kubelet()
    # On a fast machine training ends meanwhile.
    status = ended_as_if_undisturbed(team, job, storage, undisturbed, blind=seconds + HEARD_AGAIN_SECONDS)
    assert counted(status) == (0, 0), describe(status)
    status = talker.wait_until_ended(seconds=120)
    assert counted(status) == (0, 0), describe(status)
    assert status["progress"]["step"] == seconds + 30
    team.check_usage(talker)


@pytest.mark.timeout(600)
def test_the_pods_of_a_lost_node_are_given_up_and_the_end_that_nobody_saw_is_marked(
    node: RealCluster, team: Team, undisturbed: str
) -> None:
    """The control plane takes a silent node for lost after 40 s; what it then runs is ended when it is back."""
    soon = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
        for key in ("not-ready", "unreachable")
    ]
    job, storage, pods = under_way(
        node, team, steps=4 * 120, pods={"tolerations": soon}, restarts={"forceDeleteAfterSeconds": 5}
    )
    with node.another_node():
        node.stop_kubelet()
        try:
            since = Since("the kubelet is gone for good, forceDeleteAfterSeconds 5")
            came = "its pods are given up, and the gang is made anew (the control plane's own 40 s among it)"
            since.until(lambda: job.stage().get("attempt") == 1, came, 180)
        finally:
            node.start_kubelet()
    uids = {pod["metadata"]["uid"] for pod in pods}
    wait_for(lambda: not uids & {pod["metadata"]["uid"] for pod in job.pods()}, "rid of the lost pods", 120)
    status = job.wait_until_ended(seconds=SECONDS)
    assert counted(status) == (0, 1), describe(status)
    assert outcomes(job)[0] == ["Disrupted", "Disrupted"]
    records = status["usage"]["records"]
    assert {record["attempt"]: bool(record.get("endEstimated")) for record in records} == {0: True, 1: False}
    assert storage.newest_step() == 4 * 120


def test_clocks_that_disagree_by_seconds_change_nothing(
    node: RealCluster, team: Team, installation: Installation, undisturbed: str
) -> None:
    """The operator's clock is ahead of the API server's, and the pods' clocks are behind it."""
    library = f"LD_PRELOAD={FAKE_TIME_IN_POD}/libfaketimeMT.so.1"
    installation.kubectl("set", "env", DEPLOYMENT, library, f"FAKETIME=+{SLIPPED_SECONDS}s")
    installation.wait_until_ready()
    try:
        slow = [
            {"name": "LD_PRELOAD", "value": f"{FAKE_TIME_IN_POD}/libfaketimeMT.so.1"},
            {"name": "FAKETIME", "value": f"-{SLIPPED_SECONDS}s"},
        ]
        job, storage = submit(node, team, training(pods={"env": slow}, restarts={"stallTimeoutSeconds": 20}))
        status = ended_as_if_undisturbed(team, job, storage, undisturbed)
        assert counted(status) == (0, 0), describe(status)
    finally:
        installation.kubectl("set", "env", DEPLOYMENT, "LD_PRELOAD-", "FAKETIME-")
        installation.wait_until_ready()
