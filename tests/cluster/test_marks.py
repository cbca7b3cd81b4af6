"""Our marks (labels, annotations, finalizer): only the operator sets them. If somebody else did, a pod still belongs to
a job only through its owners."""

import json

import pytest

from builders.cluster import Play, play
from builders.operator_process import OperatorProcess
from cluster.clients import CommandFailedError
from cluster.control_plane import ControlPlane
from cluster.rest import Json
from cluster.team import LiveJob, Team, condition_of
from costopt import names

pytestmark = pytest.mark.usefixtures("operator")

USER = "ann"
CONTAINER = {"name": "main", "image": "registry.invalid/any:1"}
POD_SPEC = {"restartPolicy": "Never", "containers": [CONTAINER]}
REFUSED = "set, changed and removed by the costopt operator alone"


@pytest.fixture
def user(control_plane: ControlPlane, namespace: str) -> str:
    """Somebody who may edit what is in the namespace."""
    control_plane.kubectl("create", "rolebinding", USER, "--clusterrole=edit", f"--user={USER}", namespace=namespace)
    return USER


def metadata_of(marks: Json, name: str = "theirs") -> Json:
    return {"name": name, **marks}


MARKS: dict[str, Json] = {
    "a label": {"labels": {names.LABEL_JOB: "tiny"}},
    "an unknown label": {"labels": {"costopt.dev/new": "x"}},
    "the managed-by label": {"labels": names.MANAGED_BY},
    "an annotation": {"annotations": {"costopt.dev/note": "x"}},
    "the finalizer": {"finalizers": [names.USAGE_FINALIZER]},
}
KINDS: dict[str, Json] = {
    "Pod": {"apiVersion": "v1", "spec": POD_SPEC},
    "ConfigMap": {"apiVersion": "v1"},
    "Service": {"apiVersion": "v1", "spec": {"clusterIP": "None"}},
    "NetworkPolicy": {"apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": {}}},
    "Job": {"apiVersion": "batch/v1", "spec": {"template": {"spec": POD_SPEC}}},
}


def create(team: Team, manifest: Json, *, user: str) -> str:
    """What the API server answers to a user: "" if it takes the object."""
    try:
        team.control_plane.kubectl(
            "create", "--dry-run=server", f"--as={user}", "-f", "-", input=manifest, namespace=team.namespace
        )
    except CommandFailedError as error:
        return error.errors
    return ""


def change(team: Team, *words: str, user: str) -> str:
    try:
        team.control_plane.kubectl(*words, f"--as={user}", namespace=team.namespace)
    except CommandFailedError as error:
        return error.errors
    return ""


def test_a_user_can_make_no_object_that_bears_a_mark_of_ours(team: Team, user: str) -> None:
    for kind, rest in KINDS.items():
        for what, marks in MARKS.items():
            answer = create(team, {"kind": kind, "metadata": metadata_of(marks), **rest}, user=user)
            assert REFUSED in answer, f"{kind} with {what}: {answer}"
        assert create(team, {"kind": kind, "metadata": metadata_of({"labels": {"team": "a"}}), **rest}, user=user) == ""
    for what, marks in MARKS.items():
        template = {"metadata": marks, "spec": POD_SPEC}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "theirs"}, "spec": {"template": template}}
        assert REFUSED in create(team, job, user=user), f"pods of a Job with {what}"
    helm = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "labels": {"app.kubernetes.io/managed-by": "Helm"}},
    }
    assert create(team, helm, user=user) == ""


def test_a_user_can_change_no_mark_of_a_running_pod_and_anything_else_and_the_job_ends_as_ever(
    team: Team, user: str
) -> None:
    job = team.submit(Play(stage="train", run_seconds=20))
    pod = job.wait_until_running()[0]["metadata"]["name"]
    merge = ["patch", "pod", pod, "--type=merge", "-p"]
    for words in (
        ["label", "pod", pod, f"{names.LABEL_STAGE}=other", "--overwrite"],
        ["label", "pod", pod, f"{names.LABEL_JOB_UID}-"],
        ["label", "pod", pod, "app.kubernetes.io/managed-by-"],
        ["label", "pod", pod, "app.kubernetes.io/managed-by=Helm", "--overwrite"],
        ["annotate", "pod", pod, "costopt.dev/note=x"],
        [*merge, json.dumps({"metadata": {"finalizers": None}})],
        ["label", "job", "tiny-train-a0", f"{names.LABEL_ATTEMPT}=7", "--overwrite"],
        ["label", "configmap", "tiny-train-a0", "app.kubernetes.io/managed-by-"],
    ):
        assert REFUSED in change(team, *words, user=user), words
    assert change(team, "label", "pod", pod, "team=a", user=user) == ""
    assert change(team, "annotate", "job", "tiny-train-a0", "team=a", user=user) == ""
    job.wait_until_ended()
    team.check_usage(job)


def forged_pod(name: str, marks: Json, **owner: object) -> Json:
    directions = play(Play(run_seconds=0.5, exit_code=78))
    metadata = {"name": name, "annotations": directions, **marks, **owner}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": POD_SPEC}


def marks_of(job: LiveJob, **other: str) -> Json:
    labels = {
        **names.MANAGED_BY,
        names.LABEL_JOB: job.name,
        names.LABEL_JOB_UID: job.uid,
        names.LABEL_STAGE: "train",
        names.LABEL_ATTEMPT: "0",
        "batch.kubernetes.io/job-completion-index": "0",
    }
    return {"labels": {**labels, **other}}


def test_forged_pods_are_neither_billed_nor_fail_the_job_nor_are_they_touched(team: Team) -> None:
    job = team.submit(Play(run_seconds=15))
    job.wait_until_running()
    forged = [
        forged_pod("forged-stage", marks_of(job, **{names.LABEL_STAGE: "Not_A.Stage"})),
        forged_pod("forged-attempt", marks_of(job, **{names.LABEL_ATTEMPT: "9999999999999999"})),
        forged_pod("forged-next", marks_of(job, **{names.LABEL_ATTEMPT: "1"})),
        forged_pod("forged-twin", marks_of(job)),
        forged_pod("forged-held", {**marks_of(job), "finalizers": [names.USAGE_FINALIZER]}),
    ]
    for pod in forged:
        team.rest.must("POST", team.path("pods"), pod)

    def phases() -> set[str]:
        return {team.rest.must("GET", team.path("pods", pod["metadata"]["name"]))["status"]["phase"] for pod in forged}

    team.wait_for(lambda: phases() == {"Failed"}, "all forged pods ended")
    status = job.wait_until_ended()
    assert (job.stage()["failures"], job.stage()["disruptions"], job.stage()["attempt"]) == (0, 0, 0)
    records = status["usage"]["records"]
    own = {pod["metadata"]["uid"] for pod in team.pods_ever(job) if not pod["metadata"]["name"].startswith("forged")}
    assert {record["uid"] for record in records} == own
    for pod in forged:
        found = team.rest.must("GET", team.path("pods", pod["metadata"]["name"]))
        assert "deletionTimestamp" not in found["metadata"]
        assert found["metadata"]["labels"] == pod["metadata"]["labels"]
    team.rest.must("DELETE", team.path("pods", "forged-held"))
    team.wait_for(lambda: team.rest.get(team.path("pods", "forged-held")) is None, "let go of")


def test_pods_of_a_batch_job_that_was_deleted_while_nobody_looked_are_billed_and_let_go(
    team: Team, operator: OperatorProcess
) -> None:
    job = team.submit(Play(run_seconds="forever", stop_seconds=2), restarts={"maxDisruptions": 0, "maxFailures": 0})
    pods = job.wait_until_running()
    job.wait_until(lambda status: status.get("batchJobs"), "remembered")
    operator.kill()
    team.rest.must("DELETE", team.path("jobs", "tiny-train-a0"), {"propagationPolicy": "Background"})
    team.wait_for(lambda: not job.batch_jobs(), "the batch Job gone")
    assert len(job.pods()) == len(pods), "their finalizer keeps them"
    operator.start()
    operator.wait_until_acting()
    job.wait_until(lambda status: condition_of(status, "Succeeded").get("status") == "False", "ended")
    team.check_usage(job, estimated=None)
