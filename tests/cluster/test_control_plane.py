"""The control plane that other tests use behaves like a cluster."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from builders.cluster import Play, batch_job, ended_container, has_condition, play
from cluster.clients import CommandFailedError
from cluster.components import Settings
from cluster.control_plane import TESTS, ControlPlane

FOREIGN_FINALIZER = "costopt.dev/usage"


def pods_of(control_plane: ControlPlane, namespace: str, job: str) -> list[dict[str, Any]]:
    """The pods of a Job, by completion index."""
    found = control_plane.get("pods", "-l", f"job-name={job}", namespace=namespace)["items"]
    return sorted(found, key=lambda pod: int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]))


def wait_for_job(control_plane: ControlPlane, namespace: str, job: str, condition: str) -> None:
    """Until the Job has the condition."""
    control_plane.wait_for(
        lambda: has_condition(control_plane.get("job", job, namespace=namespace), condition),
        what=f"{condition} of {job}",
    )


def single_pod(name: str, *directions: Play) -> dict[str, Any]:
    """A pod with a finalizer that is not kwok's."""
    metadata = {"name": name, "annotations": play(*directions), "finalizers": [FOREIGN_FINALIZER]}
    spec = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.invalid/any:1"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def release(control_plane: ControlPlane, namespace: str, pod: str) -> None:
    """Take all finalizers from the pod."""
    change = '[{"op":"remove","path":"/metadata/finalizers"}]'
    control_plane.kubectl("patch", "pod", pod, "--type=json", "-p", change, namespace=namespace)


def wait_for_phase(control_plane: ControlPlane, namespace: str, pod: str, phase: str) -> dict[str, Any]:
    """The pod, once in this phase."""

    def in_phase() -> dict[str, Any] | None:
        found = control_plane.get("pod", pod, namespace=namespace)
        return found if found["status"].get("phase") == phase else None

    found: dict[str, Any] = control_plane.wait_for(in_phase, what=f"{phase} of {pod}")
    return found


def test_every_component_says_the_same_version(control_plane: ControlPlane) -> None:
    version = json.loads(control_plane.kubectl("version", "-o", "json"))

    assert version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"] == "v1.34.4"
    assert (version["serverVersion"]["major"], version["serverVersion"]["minor"]) == ("1", "34")


def test_a_service_account_may_do_only_what_it_was_given(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "serviceaccount", "reader", namespace=namespace)
    control_plane.kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods", namespace=namespace)
    binding = ["--role=reader", f"--serviceaccount={namespace}:reader"]
    control_plane.kubectl("create", "rolebinding", "reader", *binding, namespace=namespace)

    kubeconfig = control_plane.kubeconfig_for_service_account(namespace, "reader")

    assert control_plane.kubectl("auth", "can-i", "list", "pods", kubeconfig=kubeconfig) == "yes\n"
    with pytest.raises(CommandFailedError, match='cannot list resource "secrets"'):
        control_plane.kubectl("get", "secrets", kubeconfig=kubeconfig)
    with pytest.raises(CommandFailedError, match=r'cannot list resource "pods".*at the cluster scope'):
        control_plane.kubectl("get", "pods", "--all-namespaces", kubeconfig=kubeconfig)


def test_a_namespace_with_the_restricted_profile_refuses_a_privileged_pod(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")

    with pytest.raises(CommandFailedError, match="violates PodSecurity"):
        control_plane.kubectl("create", "-f", "-", input=single_pod("privileged"), namespace=namespace)


def test_a_job_of_two_pods_completes_with_their_termination_messages(
    control_plane: ControlPlane, namespace: str
) -> None:
    message = {"step": 3, "note": 'quotes " and <brackets> and\nlines'}
    control_plane.apply(batch_job("two", Play(message=message), Play(index=1, message="other")), namespace=namespace)

    wait_for_job(control_plane, namespace, "two", "Complete")

    first, second = pods_of(control_plane, namespace, "two")
    assert json.loads(ended_container(first)["message"]) == message
    assert ended_container(second)["message"] == "other"
    for pod in (first, second):
        end = ended_container(pod)
        assert (pod["status"]["phase"], end["exitCode"], end["reason"]) == ("Succeeded", 0, "Completed")
        assert end["startedAt"] <= end["finishedAt"]
        assert has_condition(pod, "PodScheduled")
        assert has_condition(pod, "Initialized")
        assert has_condition(pod, "Ready", "False")
        assert has_condition(pod, "ContainersReady", "False")
        assert pod["spec"]["nodeName"].startswith("node-")


def test_one_index_of_a_gang_fails_as_directed(control_plane: ControlPlane, namespace: str) -> None:
    directions = (Play(run_seconds="forever"), Play(index=1, run_seconds=0.5, exit_code=78))
    control_plane.apply(batch_job("fails", *directions, finalizers=(FOREIGN_FINALIZER,)), namespace=namespace)

    wait_for_job(control_plane, namespace, "fails", "Failed")

    pods = pods_of(control_plane, namespace, "fails")
    assert [ended_container(pod)["exitCode"] for pod in pods] == [143, 78], "the Job controller ended the other pod"
    for pod in pods:
        release(control_plane, namespace, pod["metadata"]["name"])


def test_only_the_directed_attempt_and_stage_fail(control_plane: ControlPlane, namespace: str) -> None:
    directions = play(Play(run_seconds=0.2), Play(stage="train", attempt=0, exit_code=1))
    for name, stage, attempt in (("a0", "train", "0"), ("a1", "train", "1"), ("int8", "int8", "0")):
        pod = single_pod(name)
        pod["metadata"] |= {"annotations": directions, "finalizers": []}
        pod["metadata"]["labels"] = {"costopt.dev/stage": stage, "costopt.dev/attempt": attempt}
        control_plane.apply(pod, namespace=namespace)

    wait_for_phase(control_plane, namespace, "a0", "Failed")
    wait_for_phase(control_plane, namespace, "a1", "Succeeded")
    wait_for_phase(control_plane, namespace, "int8", "Succeeded")


def test_a_pod_that_never_starts_waits_with_its_reason(control_plane: ControlPlane, namespace: str) -> None:
    pod = single_pod("waits", Play(waiting_reason="ImagePullBackOff"))
    pod["metadata"]["finalizers"] = []
    control_plane.apply(pod, namespace=namespace)

    def waiting() -> str:
        statuses = control_plane.get("pod", "waits", namespace=namespace)["status"].get("containerStatuses", [])
        return statuses[0]["state"]["waiting"]["reason"] if statuses else ""

    assert control_plane.wait_for(waiting) == "ImagePullBackOff"
    control_plane.kubectl("delete", "pod", "waits", "--timeout=10s", namespace=namespace)


@pytest.mark.parametrize(
    ("directions", "code"),
    [((), 143), ((Play(stop_exit_code=0),), 0), ((Play(stop_exit_code=137, stop_message="last words"),), 137)],
)
def test_deleting_a_running_pod_ends_it_and_leaves_the_finalizers_of_others(
    control_plane: ControlPlane, namespace: str, directions: tuple[Play, ...], code: int
) -> None:
    control_plane.apply(single_pod("held", Play(run_seconds="forever"), *directions), namespace=namespace)
    wait_for_phase(control_plane, namespace, "held", "Running")

    control_plane.kubectl("delete", "pod", "held", "--wait=false", namespace=namespace)

    pod = wait_for_phase(control_plane, namespace, "held", "Succeeded" if code == 0 else "Failed")
    assert ended_container(pod)["exitCode"] == code
    assert ended_container(pod).get("message", "") == (directions[0].stop_message or "" if directions else "")

    def grace_used_up() -> bool:
        metadata = control_plane.get("pod", "held", namespace=namespace)["metadata"]
        return bool(metadata["deletionGracePeriodSeconds"] == 0)

    control_plane.wait_for(grace_used_up, what="grace 0")
    time.sleep(1)
    assert control_plane.get("pod", "held", namespace=namespace)["metadata"]["finalizers"] == [FOREIGN_FINALIZER]
    release(control_plane, namespace, "held")
    control_plane.kubectl("wait", "--for=delete", "pod/held", "--timeout=10s", namespace=namespace)


def test_a_claim_binds_to_a_volume_and_its_pod_runs(control_plane: ControlPlane, namespace: str) -> None:
    request = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": request}
    pod = single_pod("uses")
    pod["metadata"]["finalizers"] = []
    pod["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    control_plane.apply(claim, pod, namespace=namespace)

    wait_for_phase(control_plane, namespace, "uses", "Succeeded")


def test_kubectl_logs_shows_what_a_test_wrote(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(batch_job("talks", Play(run_seconds="forever"), pods=1), namespace=namespace)
    control_plane.wait_for(lambda: pods_of(control_plane, namespace, "talks"))
    name = pods_of(control_plane, namespace, "talks")[0]["metadata"]["name"]
    wait_for_phase(control_plane, namespace, name, "Running")

    control_plane.write_log(namespace, "talks-0", "one", "two", "three")

    assert control_plane.kubectl("logs", name, namespace=namespace) == "one\ntwo\nthree\n"
    assert control_plane.kubectl("logs", name, "--tail=2", namespace=namespace) == "two\nthree\n"
    stamped = control_plane.kubectl("logs", name, "--timestamps", "--tail=1", namespace=namespace)
    since = stamped.split()[0]
    assert stamped.endswith(" three\n")
    assert "three" in control_plane.kubectl("logs", name, f"--since-time={since}", namespace=namespace)


def test_the_audit_log_counts_writes_by_user(control_plane: ControlPlane, namespace: str) -> None:
    offset = control_plane.audit_offset()

    control_plane.kubectl("create", "configmap", "counted", namespace=namespace)
    control_plane.kubectl("get", "configmap", "counted", namespace=namespace)

    writes = control_plane.count_writes("verb", "resource", "namespace", "name", since=offset, user="test-admin")
    assert writes == {("create", "configmaps", namespace, "counted"): 1}
    reads = control_plane.count_reads("verb", "resource", "name", since=offset, user="test-admin")
    assert reads[("get", "configmaps", "counted")] == 1
    assert control_plane.request_counts()[("POST", "configmaps", "")] >= 1


def test_helm_installs_into_the_control_plane(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    chart = "apiVersion: v2\nname: tiny\nversion: 0.1.0\nkubeVersion: '>=1.30.0'\n"
    (tmp_path / "Chart.yaml").write_text(chart, encoding="utf-8")
    template = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tiny}\ndata: {version: {{ .Capabilities.KubeVersion }}}\n"
    )
    (tmp_path / "templates" / "map.yaml").write_text(template, encoding="utf-8")

    control_plane.helm("install", "tiny", tmp_path, namespace=namespace)

    assert control_plane.get("configmap", "tiny", namespace=namespace)["data"] == {"version": "v1.34.4"}
    assert "v1.34" in control_plane.helm("template", tmp_path)


@pytest.mark.parametrize("own_control_plane", [Settings(nodes=1, watch_cache=False)], indirect=True)
def test_a_compaction_answers_an_old_resource_version_with_410(own_control_plane: ControlPlane) -> None:
    namespace = own_control_plane.make_namespace()
    collection = f"/api/v1/namespaces/{namespace}/configmaps"
    old = json.loads(own_control_plane.kubectl("get", "--raw", collection))["metadata"]["resourceVersion"]
    own_control_plane.kubectl("create", "configmap", "later", namespace=namespace)
    watch = f"{collection}?watch=true&timeoutSeconds=1&resourceVersion={old}"
    assert '"later"' in own_control_plane.kubectl("get", "--raw", watch)

    own_control_plane.compact_etcd()

    answer = own_control_plane.kubectl("get", "--raw", watch)
    assert json.loads(answer)["object"]["code"] == 410
    with pytest.raises(CommandFailedError, match="is too old"):
        own_control_plane.kubectl("get", "--raw", f"{collection}?resourceVersionMatch=Exact&resourceVersion={old}")


def test_a_killed_api_server_comes_back_with_its_data(own_control_plane: ControlPlane) -> None:
    namespace = own_control_plane.make_namespace()
    own_control_plane.kubectl("create", "configmap", "kept", namespace=namespace)

    own_control_plane.kill_api_server()
    with pytest.raises(CommandFailedError, match="refused"):
        own_control_plane.kubectl("get", "configmap", "kept", namespace=namespace)
    own_control_plane.start_api_server()

    assert own_control_plane.get("configmap", "kept", namespace=namespace)["metadata"]["name"] == "kept"
    own_control_plane.apply(batch_job("after", pods=1), namespace=namespace)
    wait_for_job(own_control_plane, namespace, "after", "Complete")


@pytest.mark.parametrize(
    "own_control_plane", [Settings(nodes=2, node_grace_seconds=8, eviction_seconds=1)], indirect=True
)
def test_a_silent_node_is_not_ready_and_its_pod_stays_until_it_answers(own_control_plane: ControlPlane) -> None:
    namespace = own_control_plane.make_namespace()
    own_control_plane.apply(single_pod("held", Play(run_seconds="forever")), namespace=namespace)
    node = wait_for_phase(own_control_plane, namespace, "held", "Running")["spec"]["nodeName"]

    own_control_plane.stop_kubelet(node)

    own_control_plane.wait_for(lambda: has_condition(own_control_plane.get("node", node), "Ready", "Unknown"))
    own_control_plane.wait_for(
        lambda: "deletionTimestamp" in own_control_plane.get("pod", "held", namespace=namespace)["metadata"]
    )
    time.sleep(1)
    pod = own_control_plane.get("pod", "held", namespace=namespace)
    assert has_condition(pod, "DisruptionTarget")
    assert pod["status"]["phase"] == "Running", "nobody is there to end it"

    own_control_plane.start_kubelet(node)
    wait_for_phase(own_control_plane, namespace, "held", "Failed")
    own_control_plane.wait_for(lambda: has_condition(own_control_plane.get("node", node), "Ready"))


@pytest.mark.usefixtures("control_plane")
def test_stopping_ends_all_processes_and_removes_the_folder(binaries: dict[str, Path]) -> None:
    with ControlPlane(binaries, Settings(nodes=1)) as started:
        pids, folder = started.pids, started.folder
        assert len(pids) == 6

    assert [name for name, pid in pids.items() if is_alive(pid)] == []
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
@pytest.mark.usefixtures("control_plane")
def test_nothing_survives_a_killed_owner(tmp_path: Path) -> None:
    program = (
        "import json, pathlib, sys, time\n"
        "from cluster.build import find_binaries\n"
        "from cluster.components import Settings\n"
        "from cluster.control_plane import ControlPlane\n"
        "with ControlPlane(find_binaries(), Settings(nodes=1)) as started:\n"
        "    print(json.dumps(started.pids), flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(TESTS), "TMPDIR": str(tmp_path)}
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    assert owner.stdout is not None
    pids = json.loads(owner.stdout.readline())
    assert all(is_alive(pid) for pid in pids.values())

    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()

    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [name for name, pid in pids.items() if is_alive(pid)] == []


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet waited for does not."""
    with contextlib.suppress(FileNotFoundError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state != "Z"
    return False
