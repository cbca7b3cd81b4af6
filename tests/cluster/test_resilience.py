"""Failures of operators and of their way to the API server: two of them, none for a while, a broken network."""

import subprocess
import sys
import time
from pathlib import Path

from builders.cluster import Play
from builders.operator_process import ACCOUNT, NAMESPACE, NO_ELECTION, OperatorProcess, install_release
from cluster.control_plane import ControlPlane
from cluster.proxy import Proxy, address_in
from cluster.team import LiveJob, Team

OPERATOR_USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
TAKEOVER_SECONDS = 20
FIRST_STAYS = Play(stage="train", attempt=0, run_seconds="forever")


def only(team: Team, account: Path, *arguments: str) -> OperatorProcess:
    """An operator of this team alone, without an election."""
    return OperatorProcess(
        team.control_plane, account, f"--namespace={team.namespace}", NO_ELECTION, *arguments, identity=team.namespace
    )


def rival(control_plane: ControlPlane, account: Path, identity: str) -> OperatorProcess:
    """An operator of all namespaces that wants the one lease."""
    return OperatorProcess(control_plane, account, identity=identity)


def test_of_two_operators_one_acts_and_the_other_takes_over_when_it_is_killed_or_told_to_end(
    team: Team, operator_account: Path
) -> None:
    one, other = (rival(team.control_plane, operator_account, name) for name in ("one", "other"))
    with one:
        other.start()
        try:
            other.wait_until_standing_by()
            killed = team.submit(
                Play(attempt=0, run_seconds="forever"), Play(attempt=0, index=1, run_seconds=1, exit_code=1), name="a"
            )
            killed.wait_until(lambda status: status.get("execution") == 1, "acted on")
            one.kill()
            seconds = other.wait_until_acting()
            assert seconds < TAKEOVER_SECONDS
            killed.wait_until_ended()
            assert len(team.check_usage(killed)) == 4

            one.start()
            one.wait_until_standing_by()
            ended = team.submit(Play(attempt=0, run_seconds="forever"), name="b")
            ended.wait_until_running()
            other.stop()
            assert one.wait_until_acting() < min(seconds, TAKEOVER_SECONDS / 2)
            ended.change(suspend=True)
            ended.wait_until_suspended()
            team.check_usage(ended)
            assert "the lease is given back" in other.log
        finally:
            other.stop()


def test_an_operator_that_cannot_renew_its_lease_stops_writing_before_another_acts(
    team: Team, operator_account: Path
) -> None:
    with Proxy(address_in(operator_account)) as proxy:
        cut_off = rival(team.control_plane, proxy.kubeconfig(operator_account), "cut-off")
        other = rival(team.control_plane, operator_account, "not-cut-off")
        with cut_off:
            other.start()
            try:
                job = team.submit(Play(run_seconds="forever"))
                job.wait_until_running()
                proxy.hold()
                team.control_plane.wait_for(lambda: cut_off.pid is None, what="ended, its lease being lost")
                proxy.go_on()
                other.wait_until_acting()
                assert not cut_off.is_acting()
                job.change(suspend=True)
                job.wait_until_suspended()
                team.check_usage(job)
            finally:
                other.stop()


def test_cut_and_silent_connections_lose_nothing(team: Team, operator_account: Path) -> None:
    with Proxy(address_in(operator_account)) as proxy, only(team, proxy.kubeconfig(operator_account)) as operator:
        jobs = [
            team.submit(FIRST_STAYS, Play(attempt=0, index=1, run_seconds=1, exit_code=1), name="failing"),
            team.submit(FIRST_STAYS, name="disrupted"),
            team.submit(name="plain", variants=("int8",)),
        ]
        for _ in range(10):
            assert proxy.cut() >= 0
            time.sleep(0.1)
        jobs[1].wait_until_running()
        proxy.hold()
        team.rest.must("DELETE", team.path("pods", jobs[1].pods()[0]["metadata"]["name"]))
        time.sleep(1)
        proxy.go_on()
        proxy.cut()
        for job, records in zip(jobs, (4, 4, 3), strict=True):
            job.wait_until_ended()
            assert len(team.check_usage(job)) == records
        assert operator.is_acting()


def test_what_happened_while_no_operator_ran_is_understood_afterwards(team: Team, operator_account: Path) -> None:
    """The first failure is still the first, the end of the others is not blamed, and what was deleted is gone."""
    said = {"exitCode": 1, "reason": "ProcessFailed", "message": "a crash", "rank": 1, "replicaIndex": 1}
    victims = Play(stage="train", attempt=0, index=0, run_seconds="forever", stop_exit_code=143)
    with only(team, operator_account) as operator:
        failing = team.submit(
            victims, Play(stage="train", attempt=0, index=1, run_seconds=2.5, exit_code=1, message=said), name="failing"
        )
        evicted = team.submit(FIRST_STAYS, name="evicted")
        deleted = team.submit(Play(run_seconds="forever"), name="deleted")
        done = team.submit(Play(stage="train", run_seconds=2.5), name="done", variants=("int8",))
        edited = team.submit(Play(run_seconds="forever"), name="edited")
        jobs = (failing, evicted, deleted, done, edited)
        for job in jobs:
            job.wait_until_running()
        operator.kill()
        pod = evicted.pods()[0]["metadata"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["name"]}}
        team.rest.must("POST", f"{team.path('pods', pod['name'])}/eviction", eviction)
        deleted.delete()
        edited.change(suspend=True)
        late = team.submit(name="late")
        for job in (failing, evicted, done):
            team.wait_for(lambda job=job: ended_pods(job) == 2, f"the pods of {job.name} ended")
        operator.start()

        deleted.wait_until_gone()
        edited.wait_until_suspended()
        late.wait_until_ended()
        for job, records in ((failing, 4), (evicted, 4), (done, 3)):
            job.wait_until_ended()
            assert len(team.check_usage(job)) == records
        assert (failing.stage()["failures"], failing.stage()["disruptions"]) == (1, 0)
        assert failing.status["failure"]["message"] == "a crash"
        assert (evicted.stage()["failures"], evicted.stage()["disruptions"]) == (0, 1)


def ended_pods(job: LiveJob) -> int:
    """How many of its pods have ended."""
    return sum(pod["status"].get("phase") in ("Succeeded", "Failed") for pod in job.pods(stage="train"))


def test_release_finalizers_lets_go_of_all_pods_when_the_operator_is_removed(
    team: Team, operator_account: Path
) -> None:
    with only(team, operator_account) as operator:
        job = team.submit(Play(run_seconds="forever"))
        job.wait_until_running()
        operator.kill()
        job.delete()
        team.wait_for(lambda: ended_pods(job) == 2, "ended pods that are held")
        account = install_release(team.control_plane)
        command = [sys.executable, "-m", "costopt_operator", "release-finalizers", f"--kubeconfig={account}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        assert "released the finalizer of" in done.stderr
        job.wait_until_gone()


def test_an_operator_with_nothing_to_do_writes_nothing_but_its_lease(team: Team, operator_account: Path) -> None:
    with OperatorProcess(team.control_plane, operator_account, f"--namespace={team.namespace}") as operator:
        jobs = [team.submit(name="done", variants=("int8",)), team.submit(Play(exit_code=78), name="failed")]
        running = team.submit(Play(run_seconds="forever"), name="running")
        held = team.submit(name="held", suspend=True)
        jobs[0].wait_until_ended()
        jobs[1].wait_until_ended("TrainingFailed")
        held.wait_until_suspended()
        running.wait_until_running()
        for job in jobs:
            team.check_usage(job)
        running.wait_until(lambda status: status["stages"][0]["state"] == "Running", "written down as running")
        since = team.control_plane.audit_offset()
        time.sleep(6)
        written = team.control_plane.count_writes("resource", since=since, user=OPERATOR_USER)
        assert set(written) == {("leases",)}, written
        asked = team.control_plane.count_reads("verb", "resource", since=since, user=OPERATOR_USER)
        assert set(asked) <= {("get", "leases")}, asked
        assert operator.is_acting()
