"""Outages of a control plane: its API server dies, its history is deleted, a node falls silent."""

import os
import signal
import time

import pytest

from builders.cluster import Play
from builders.operator_process import NO_ELECTION, OperatorProcess, install
from cases.mistakes import plain_price_book
from cluster.components import Settings
from cluster.control_plane import ControlPlane
from cluster.team import Team, condition_of

FIRST_STAYS = Play(stage="train", attempt=0, run_seconds="forever")


def started(control_plane: ControlPlane, *arguments: str) -> tuple[OperatorProcess, Team]:
    """An operator (to be entered), and a team for it; `arguments` are added to the chart's."""
    account = install(control_plane)
    control_plane.apply(plain_price_book())
    return OperatorProcess(control_plane, account, *arguments), Team(control_plane, control_plane.make_namespace())


def test_an_api_server_that_is_killed_and_comes_back_costs_no_attempt_and_no_record(
    own_control_plane: ControlPlane,
) -> None:
    operator, team = started(own_control_plane)
    # On a slow machine the API server is away for longer than the lease lasts.
    with operator, operator.restarted_at_its_end():
        going_on = team.submit(Play(execution=1, run_seconds="forever"), name="going-on")
        ending = team.submit(Play(stage="train", run_seconds=2), name="ending", variants=("int8",))
        failing = team.submit(FIRST_STAYS, Play(attempt=0, index=1, run_seconds=2, exit_code=1), name="failing")
        for job in (going_on, ending, failing):
            job.wait_until_running()
        own_control_plane.kill_api_server()
        time.sleep(3)
        own_control_plane.start_api_server()

        for job, records in ((ending, 3), (failing, 4)):
            job.wait_until_ended()
            assert len(team.check_usage(job)) == records
        assert (going_on.stage()["attempt"], going_on.stage()["disruptions"]) == (0, 0)
        assert (failing.stage()["failures"], failing.stage()["disruptions"]) == (1, 0)
        going_on.change(suspend=True)
        going_on.wait_until_suspended()
        team.submit(name="new").wait_until_ended()
        own_control_plane.wait_for(operator.is_acting, what="acting again")
        assert operator.metric("costopt_reconcile_errors_total", reason="Bug") == 0
    team.close()


@pytest.mark.parametrize("own_control_plane", [Settings(watch_cache=False)], indirect=True)
def test_a_watch_whose_version_is_gone_lists_again_and_loses_no_deletion(own_control_plane: ControlPlane) -> None:
    """The operator sleeps (SIGSTOP) while things happen that no watch can tell any more when it wakes.

    It needs no lease: a leader that slept for longer than that ends, and its next start has no watch to go on with.
    """
    operator, team = started(own_control_plane, NO_ELECTION)
    with operator:
        deleted = team.submit(Play(run_seconds="forever"), name="deleted")
        lost = team.submit(FIRST_STAYS, name="lost")
        ending = team.submit(Play(stage="train", run_seconds=2), name="ending", variants=("int8",))
        for job in (deleted, lost, ending):
            job.wait_until_running()
        assert operator.pid is not None
        os.kill(operator.pid, signal.SIGSTOP)
        deleted.delete()
        team.rest.must("DELETE", team.path("jobs", "lost-train-a0"), {"propagationPolicy": "Background"})
        team.rest.must("DELETE", team.path("services", "ending-train-a0"))
        late = team.submit(name="late")
        team.wait_for(lambda: not lost.batch_jobs(), "no batch Job of the lost one")
        # Its connections are cut, for a watch that is open gets what has happened without asking for a version.
        own_control_plane.kill_api_server()
        own_control_plane.start_api_server()
        own_control_plane.compact_etcd()
        os.kill(operator.pid, signal.SIGCONT)

        deleted.wait_until_gone()
        for job, records in ((lost, 4), (ending, 3), (late, 2)):
            job.wait_until_ended()
            assert len(team.check_usage(job, blind=120)) == records
        assert (lost.stage()["failures"], lost.stage()["disruptions"]) == (0, 1)
        assert operator.metric("costopt_watch_relists") > 0
    team.close()


NODE_IS_LOST = Settings(node_grace_seconds=4, eviction_seconds=1)


@pytest.mark.parametrize("own_control_plane", [NODE_IS_LOST], indirect=True)
def test_pods_of_a_lost_node_are_deleted_by_force_where_that_is_asked_for(own_control_plane: ControlPlane) -> None:
    operator, team = started(own_control_plane)
    pods = {"terminationGracePeriodSeconds": 1, "nodeSelector": {"kubernetes.io/hostname": "node-0"}}
    with operator:
        forced = team.submit(
            FIRST_STAYS, name="forced", nodes=1, restarts={"forceDeleteAfterSeconds": 1},
            pods={"terminationGracePeriodSeconds": 1},
        )  # fmt: skip
        patient = team.submit(Play(run_seconds="forever"), name="patient", nodes=1, pods=pods)
        (pod,) = forced.wait_until_running(1)
        patient.wait_until_running(1)
        for node in {pod["spec"]["nodeName"], "node-0"}:
            own_control_plane.stop_kubelet(node)
        status = forced.wait_until_ended(seconds=120)

        assert (forced.stage()["failures"], forced.stage()["disruptions"]) == (0, 1)
        records = team.check_usage(forced, estimated=1)
        assert [each["outcome"] for each in records] == ["Disrupted", "Succeeded"]
        assert records[0]["node"] == pod["spec"]["nodeName"] != records[1]["node"]
        assert status["bill"]["estimatedRecords"] == 1
        assert status["failure"]["reason"] in ("Evicted", "Lost")

        (stuck,) = patient.pods()
        assert "deletionTimestamp" in stuck["metadata"]
        assert patient.stage()["attempt"] == 0
        own_control_plane.start_kubelet("node-0")
        patient.wait_until(lambda _: patient.stage()["attempt"] == 1, "another attempt, its node being back")
        assert condition_of(patient.status, "Succeeded")["status"] == "Unknown"
    team.close()
