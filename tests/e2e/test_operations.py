"""What people do with jobs and with the operator while jobs run."""

import json
import signal
import time
from typing import Any

from cluster.clients import CommandFailedError
from cluster.team import LiveJob, Team, condition_of
from e2e.figures import Since
from e2e.installation import Installation
from e2e.jobs import (
    HEARD_AGAIN_SECONDS,
    SECONDS,
    STEPS,
    Storage,
    describe,
    script,
    send,
    submit,
    training,
    wait_for,
)
from e2e.real_cluster import RealCluster

AWAY_SECONDS = 10.0
"""How long the API server is away."""
SAVES_WHEN_TOLD = """
import json, os, signal, sys, time
from pathlib import Path

state = Path(os.environ["COSTOPT_STORAGE_DIR"]) / "state.json"
step = json.loads(state.read_text())["step"] if state.exists() else 0
print(f"going on after step {step}", flush=True)

def save(*_):
    state.write_text(json.dumps({"step": step}))
    print(f"saved step {step}", flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
while step < 60:
    time.sleep(0.5)
    step += 1
    print(json.dumps({"step": step, "totalSteps": 60, "loss": str(1 / step)}), flush=True)
"""


def test_an_own_script_hears_that_it_is_to_stop_and_goes_on_from_what_it_saved(node: RealCluster, team: Team) -> None:
    storage = {"storage": {"create": {"size": "1Gi", "accessMode": "ReadWriteOnce", "keepAfterDeletion": True}}}
    job, kept = submit(node, team, script("own", SAVES_WHEN_TOLD, **storage))
    (pod,) = job.wait_until_running(pods=1)
    name = pod["metadata"]["name"]
    wait_for(lambda: '"step": 8' in node.kubectl("logs", name, namespace=team.namespace), "at step 8")
    job.change(suspend=True)
    job.wait_until_suspended()
    (state,) = kept.folder.rglob("state.json")
    saved = json.loads(state.read_text())["step"]
    assert saved >= 8
    assert job.status["progress"]["step"] == saved  # the log is read once more at the end
    job.change(suspend=False)
    status = job.wait_until_ended(seconds=120)
    assert status["progress"]["step"] == 60
    assert status["progress"]["loss"] == str(1 / 60)
    assert status["execution"] == 2
    train = job.stage()
    assert (train.get("failures", 0), train.get("disruptions", 0)) == (0, 0)
    outcomes = sorted(record["outcome"] for record in team.check_usage(job))
    assert outcomes == ["Succeeded", "Suspended"]


def test_a_suspended_training_goes_on_in_the_same_bits(node: RealCluster, team: Team, undisturbed: str) -> None:
    job, storage = submit(node, team, training())
    wait_for(storage.newest_step, "at its first checkpoint")
    job.change(suspend=True)
    job.wait_until_suspended()
    assert not [pod for pod in job.pods() if pod["status"]["phase"] == "Running"]
    job.change(suspend=False)
    status = job.wait_until_ended(seconds=SECONDS)
    assert status["progress"]["step"] == STEPS
    assert storage.weights() == undisturbed
    outcomes = sorted(record["outcome"] for record in team.check_usage(job))
    assert outcomes == ["Succeeded", "Succeeded", "Suspended", "Suspended"], describe(status)


def test_an_upgrade_of_the_operator_disturbs_no_training(
    node: RealCluster, team: Team, installation: Installation, undisturbed: str
) -> None:
    job, storage = submit(node, team, training())
    wait_for(storage.newest_step, "at its first checkpoint")
    before = {pod["metadata"]["name"] for pod in installation.pods()}
    installation.install(podAnnotations={"test.costopt.dev/upgrade": str(time.time())})
    assert not before & {pod["metadata"]["name"] for pod in installation.pods()}
    _undisturbed(team, job, storage, undisturbed)


def test_a_token_that_changes_on_disk_is_taken_up_when_the_old_one_is_refused(
    node: RealCluster, team: Team, installation: Installation, undisturbed: str
) -> None:
    job, storage = submit(node, team, training())
    wait_for(storage.newest_step, "at its first checkpoint")
    leader = installation.leader()
    standby = next(name for name in _restarts(installation) if name != leader["metadata"]["name"])
    restarts = _restarts(installation)
    before = _token(installation, standby)
    node.rotate_service_account_key()
    since = Since("all tokens are refused, and the kubelet hands out others")
    since.until(lambda: _token(installation, standby) not in (None, before), "an operator's pod has a new one")
    installation.wait_until_ready()
    _undisturbed(team, job, storage, undisturbed, blind=HEARD_AGAIN_SECONDS)
    # A leader that could not renew its lease meanwhile begins anew, once; the other goes on with the new token.
    assert _restarts(installation)[standby] == restarts[standby]
    assert sum(_restarts(installation).values()) <= sum(restarts.values()) + 1
    team.create(script("after", "print('done')")).wait_until_ended()


def _undisturbed(team: Team, job: LiveJob, storage: Storage, undisturbed: str, *, blind: float = 0) -> None:
    """`blind` as in `check_usage`."""
    status = job.wait_until_ended(seconds=SECONDS)
    assert {record["attempt"] for record in team.check_usage(job, blind=blind)} == {0}, describe(status)
    assert storage.weights() == undisturbed


def _token(installation: Installation, pod: str) -> str | None:
    """The token in a pod; None while nothing can be run in it."""
    try:
        return installation.kubectl("exec", pod, "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
    except CommandFailedError:
        return None


def _restarts(installation: Installation) -> dict[str, int]:
    return {
        pod["metadata"]["name"]: sum(each["restartCount"] for each in pod["status"]["containerStatuses"])
        for pod in installation.pods()
    }


def test_a_killed_leader_is_followed_by_another_while_training_goes_on(
    node: RealCluster, team: Team, installation: Installation, undisturbed: str
) -> None:
    job, storage = submit(node, team, training())
    wait_for(storage.newest_step, "at its first checkpoint")
    leader, holder = installation.leader(), installation.holder()
    assert send(leader, "costopt-operator", signal.SIGKILL) == 1
    since = Since("the leading operator is killed (SIGKILL)")
    assert since.until(lambda: installation.holder() not in ("", holder), "another leads") < 60
    _undisturbed(team, job, storage, undisturbed)
    installation.wait_until_ready()


def test_an_api_server_that_restarts_disturbs_no_training(node: RealCluster, team: Team, undisturbed: str) -> None:
    job, storage = submit(node, team, training())
    wait_for(storage.newest_step, "at its first checkpoint")
    node.kill_api_server()
    time.sleep(AWAY_SECONDS)
    node.start_api_server()
    # On a fast machine training ends meanwhile.
    _undisturbed(team, job, storage, undisturbed, blind=AWAY_SECONDS + HEARD_AGAIN_SECONDS)


def test_a_namespace_goes_with_its_jobs_whatever_they_are_doing(node: RealCluster, installation: Installation) -> None:
    team = Team(node, node.make_namespace())
    forever = "import time\nwhile True: time.sleep(1)"
    image = {"train": {**script("x", "0")["spec"]["train"], "image": "costopt-nowhere:1"}}
    waiting = team.create({**script("waiting", "0"), "spec": {**script("waiting", "0")["spec"], **image}})
    running = team.create(script("running", forever))
    suspended = team.create(script("suspended", forever, suspend=True))
    succeeded = team.create(script("succeeded", "print('done')"))
    failed = team.create(script("failed", "raise SystemExit(78)"))
    running.wait_until_running(pods=1)
    succeeded.wait_until_ended()
    failed.wait_until_ended(reason=_failed_reason(failed))
    suspended.wait_until_suspended()
    wait_for(lambda: _waits_for_its_image(waiting), "waiting for its image")
    since = Since("a namespace with jobs in five states is deleted")
    node.kubectl("delete", "namespace", team.namespace, "--timeout=120s")
    assert since.note("it is gone") < 90
    team.close()


def _failed_reason(job: LiveJob) -> str:
    status: dict[str, Any] = wait_for(
        lambda: condition_of(job.status, "Succeeded").get("status") == "False" and job.status, "failed"
    )
    return str(condition_of(status, "Succeeded")["reason"])


def _waits_for_its_image(job: LiveJob) -> bool:
    return "costopt-nowhere:1" in json.dumps(job.status.get("conditions", []))


def test_jobs_outlive_the_operator_and_are_taken_up_by_the_next_installation(
    node: RealCluster, team: Team, installation: Installation, undisturbed: str
) -> None:
    job, storage = submit(node, team, training())
    wait_for(storage.newest_step, "at its first checkpoint")
    since = Since("helm uninstall while a gang trains")
    installation.uninstall()
    since.note("the operator is gone, the gang goes on")
    installation.install()
    status = job.wait_until_ended(seconds=SECONDS)
    assert storage.weights() == undisturbed
    assert status["progress"]["step"] == STEPS


def test_an_operator_of_one_namespace_runs_its_jobs_and_no_others(
    node: RealCluster, team: Team, installation: Installation
) -> None:
    other = Team(node, node.make_namespace())
    installation.uninstall()
    try:
        installation.install(rbac={"scope": "Namespaced", "namespaces": [team.namespace]})
        elsewhere = other.create(script("elsewhere", "print('done')"))
        status = team.create(script("ours", "print('done')")).wait_until_ended()
        assert status["bill"]["listCost"] is not None  # its price books come as files
        assert elsewhere.status == {}
        assert elsewhere.pods() == []
    finally:
        installation.uninstall()
        installation.install()
    elsewhere.wait_until_ended()
    other.close()
    node.kubectl("delete", "namespace", other.namespace, "--wait=false")
