"""The commands on a cluster, with a real API server: what it refuses, what it stores, and whose rights apply."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.cli import write_manifest
from builders.cluster import Play, play
from builders.local import job as command_job
from builders.local import runner_in
from cluster.clients import Cluster
from cluster.control_plane import ControlPlane
from costopt.render.manifests import manifests
from costopt.schema.job import CostOptJob

Answer = subprocess.CompletedProcess[str]


class Program:
    """`costopt` as a user of the cluster starts it, in a folder of his own and in one namespace."""

    def __init__(self, cluster: Cluster, folder: Path, namespace: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.namespace = namespace

    def __call__(self, *arguments: str | Path, kubeconfig: Path | None = None) -> Answer:
        """Run it to its end."""
        return subprocess.run(
            self._command(arguments), cwd=self.folder, env=self._environment(kubeconfig), capture_output=True,
            text=True, timeout=240, check=False,
        )  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(
            self._command(arguments), cwd=self.folder, env=self._environment(None), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _command(self, arguments: tuple[str | Path, ...]) -> list[str]:
        return [sys.executable, "-m", "costopt.cli", *map(str, arguments), "-n", self.namespace]

    def _environment(self, kubeconfig: Path | None) -> Mapping[str, str]:
        own = {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
        return {**self.cluster.environment, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **own}


@pytest.fixture
def costopt(crds: Cluster, tmp_path: Path, namespace: str) -> Program:
    return Program(crds, tmp_path, namespace)


def refused(answer: Answer) -> str:
    """What was said to a user whose command could not be done: one sentence."""
    assert answer.returncode == 2, answer
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    return answer.stderr


def set_status(costopt: Program, name: str, status: Mapping[str, Any]) -> None:
    """Write a job's status, as the operator would."""
    patch = json.dumps({"status": status})
    arguments = ("patch", "costoptjob", name, "--subresource=status", "--type=merge", "-p", patch)
    costopt.cluster.kubectl(*arguments, namespace=costopt.namespace)


def create_children(costopt: Program, name: str, attempt: int = 0) -> CostOptJob:
    """The children of an attempt at training, as the operator would create them."""
    document = costopt.cluster.get("costoptjob", name, namespace=costopt.namespace)
    metadata = {key: document["metadata"][key] for key in ("name", "namespace", "uid")}
    job = CostOptJob.model_validate({**document, "metadata": metadata, "status": None})
    costopt.cluster.apply(*manifests(job, "train", attempt), namespace=costopt.namespace)
    return job


def write_playing(folder: Path, *directions: Play, **spec: Any) -> Path:
    """A job of two replicas that do as directed."""
    plain = command_job(pods={"annotations": play(*directions)}, **spec).to_plain()
    (folder / "playing.yaml").write_text(yaml.safe_dump(plain))
    return folder / "playing.yaml"


def running_pods(costopt: Program) -> Callable[[], bool]:
    def read() -> bool:
        pods = costopt.cluster.get("pods", namespace=costopt.namespace)["items"]
        return len(pods) == 2 and all(pod["status"]["phase"] == "Running" for pod in pods)

    return read


def test_a_job_is_submitted_changed_suspended_resumed_and_deleted(costopt: Program) -> None:
    manifest = write_manifest(costopt.folder)
    dry = costopt("submit", "job.yaml", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "Job tiny would be submitted" in dry.stdout
    assert "there is no job tiny" in refused(costopt("status", "tiny"))

    submitted = costopt("submit", "job.yaml")
    assert (submitted.returncode, submitted.stderr) == (0, "")
    assert f"Job tiny submitted (namespace {costopt.namespace} of the cluster of context" in submitted.stdout
    assert f"  costopt watch tiny -n {costopt.namespace}" in submitted.stdout
    assert "Job tiny is there already, and the same" in costopt("submit", "job.yaml").stdout
    assert costopt("status", "tiny").stdout.startswith("tiny: New; the operator has not looked at it yet")
    listed = json.loads(costopt("status", "--output", "json").stdout)
    assert [(entry["namespace"], entry["name"]) for entry in listed] == [(costopt.namespace, "tiny")]

    assert costopt("suspend", "tiny").returncode == 0
    stored = costopt.cluster.get("costoptjob", "tiny", namespace=costopt.namespace)
    assert stored["spec"]["suspend"] is True
    line = manifest.read_text().splitlines().index("  suspend: false") + 1
    assert f"spec.suspend (line {line}) by the command line" in costopt("submit", "job.yaml").stderr
    assert costopt("resume", "tiny").returncode == 0
    assert costopt.cluster.get("costoptjob", "tiny", namespace=costopt.namespace)["spec"]["suspend"] is False

    manifest.write_text(manifest.read_text().replace("maxFailures: 3", "maxFailures: 5"))
    assert "Job tiny changed" in costopt("submit", "job.yaml", "--force").stdout
    deleted = costopt("delete", "tiny", "--wait")
    assert (deleted.returncode, deleted.stdout) == (0, "Job tiny deleted. Its cost was unknown.\n")
    assert "there is none at all in it" in refused(costopt("status", "tiny"))


def test_what_only_the_server_can_refuse_is_named_with_its_line(costopt: Program) -> None:
    manifest = write_manifest(costopt.folder)
    assert costopt("submit", "job.yaml").returncode == 0
    manifest.write_text(manifest.read_text().replace("totalSteps: 60", "totalSteps: 70"))
    for dry_run in ((), ("--dry-run",)):
        answer = costopt("submit", "job.yaml", *dry_run)
        assert answer.returncode == 2
        assert "train cannot be changed after creation; create another job" in answer.stderr
        assert answer.stderr.startswith("job.yaml:")


def test_the_status_of_a_real_run_reads_the_same_on_a_cluster(costopt: Program) -> None:
    plain = command_job(priceBookName="sample").to_plain()
    (costopt.folder / "job.yaml").write_text(yaml.safe_dump(plain))
    assert costopt("submit", "job.yaml").returncode == 0
    runner = runner_in(costopt.folder / "runs/tiny", command_job(priceBookName="sample"), "fail once")
    status = runner.run()
    set_status(costopt, "tiny", status.to_plain())

    here = subprocess.run(
        [sys.executable, "-m", "costopt.cli", "cost"], cwd=costopt.folder, capture_output=True, text=True, check=True
    )
    assert "vCPU-Hours" in here.stdout
    assert costopt("cost", "tiny").stdout == here.stdout
    assert json.loads(costopt("status", "tiny", "--output", "json").stdout) == status.to_plain()
    text = costopt("status", "tiny").stdout
    assert text.startswith("tiny: Succeeded")
    assert "train had failed and was restarted: ProcessFailed" in text
    watched = costopt("watch", "tiny")
    assert watched.returncode == 0
    assert f"Succeeded. Job tiny in namespace {costopt.namespace}" in watched.stdout
    assert "job tiny has ended" in refused(costopt("submit", "job.yaml"))
    assert "job tiny has ended" in refused(costopt("suspend", "tiny"))


def test_watch_ends_with_ctrl_c_and_the_job_goes_on(costopt: Program) -> None:
    write_playing(costopt.folder)
    assert costopt("submit", "playing.yaml").returncode == 0
    watching = costopt.start("watch", "tiny")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("tiny: New")
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=240)
    assert watching.returncode == 130
    assert "The job goes on." in err
    assert costopt("status", "tiny").returncode == 0


def test_logs_of_running_pods_are_read_and_followed(costopt: Program, control_plane: ControlPlane) -> None:
    write_playing(costopt.folder, Play(run_seconds="forever"))
    assert costopt("submit", "playing.yaml").returncode == 0
    assert "no logs yet" in refused(costopt("logs", "tiny"))
    following = costopt.start("logs", "tiny", "--follow", "--attempt", "0")
    assert following.stdout is not None
    assert following.stderr is not None
    assert following.stderr.readline() == "no replica has begun yet; waiting for one\n"
    create_children(costopt, "tiny")
    control_plane.wait_for(running_pods(costopt))
    control_plane.write_log(costopt.namespace, "tiny-train-a0-0", "zero begins")
    control_plane.write_log(costopt.namespace, "tiny-train-a0-1", "one begins", "one goes on")
    assert costopt("logs", "tiny").stdout == (
        "train-a0-0 | zero begins\ntrain-a0-1 | one begins\ntrain-a0-1 | one goes on\n"
    )
    assert costopt("logs", "tiny", "--replica", "train-a0-1", "--tail", "1").stdout == "one goes on\n"
    assert "--replica must be one of train-a0-0, train-a0-1" in refused(costopt("logs", "tiny", "--replica", "x"))
    control_plane.write_log(costopt.namespace, "tiny-train-a0-0", "zero ends")
    lines = sorted(following.stdout.readline().rstrip() for _ in range(4))
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=240)
    assert following.returncode == 130
    assert err == ""
    assert lines == [
        "train-a0-0 | zero begins",
        "train-a0-0 | zero ends",
        "train-a0-1 | one begins",
        "train-a0-1 | one goes on",
    ]


def test_a_gang_that_cannot_be_placed_says_why_and_logs_of_gone_pods_are_in_the_status(
    costopt: Program, control_plane: ControlPlane
) -> None:
    node = {"requests": {"cpu": 1000, "memory": "1Gi"}}
    write_playing(costopt.folder, train={"resourcesPerNode": node})
    assert costopt("submit", "playing.yaml").returncode == 0
    create_children(costopt, "tiny")
    said = control_plane.wait_for(
        lambda: [line for line in costopt("status", "tiny").stdout.splitlines() if "wait" in line]
    )
    assert said[0].startswith("train: 2 replicas wait for Unschedulable: 0/8 nodes are available")
    assert "train-a0-0: not running yet, waits for Unschedulable" in costopt("logs", "tiny").stderr

    costopt.cluster.kubectl("delete", "job", "--all", namespace=costopt.namespace)
    release = json.dumps({"metadata": {"finalizers": None}})  # the operator's part, once their usage is recorded
    for pod in costopt.cluster.kubectl("get", "pods", "-o", "name", namespace=costopt.namespace).split():
        costopt.cluster.kubectl("patch", pod, "--type=merge", "-p", release, namespace=costopt.namespace)
    control_plane.wait_for(lambda: not control_plane.get("pods", namespace=costopt.namespace)["items"])
    failed = runner_in(costopt.folder / "failed", command_job(restarts={"maxFailures": 0}), "fail").run().to_plain()
    failed["failure"]["logTail"] = ["Traceback (most recent call last):", "ValueError: no"]
    set_status(costopt, "tiny", failed)
    answer = costopt("logs", "tiny")
    assert (answer.returncode, answer.stdout) == (0, "Traceback (most recent call last):\nValueError: no\n")
    assert "job tiny has no pods any more, and their logs went with them" in answer.stderr


def test_a_user_with_few_rights_is_told_which_are_missing(costopt: Program) -> None:
    write_manifest(costopt.folder)
    cluster, namespace = costopt.cluster, costopt.namespace
    cluster.kubectl("create", "serviceaccount", "ada", namespace=namespace)
    ada = cluster.kubeconfig_for_service_account(namespace, "ada")
    assert "cannot list resource" in refused(costopt("status", kubeconfig=ada))
    rights = ("--verb=get,list,create,patch", "--resource=costoptjobs.costopt.dev")
    cluster.kubectl("create", "role", "jobs", *rights, namespace=namespace)
    cluster.kubectl(
        "create", "rolebinding", "ada", "--role=jobs", f"--serviceaccount={namespace}:ada", namespace=namespace
    )
    submitted = cluster.wait_for(
        lambda: (tried := costopt("submit", "job.yaml", kubeconfig=ada)).returncode == 0 and tried
    )
    assert "PriceBook sample was left out: you may not set prices" in submitted.stderr
    assert "Job tiny submitted" in submitted.stdout
    assert costopt("status", "tiny", kubeconfig=ada).returncode == 0
    assert "cannot list resource" in refused(costopt("logs", "tiny", kubeconfig=ada))
    assert "cannot delete resource" in refused(costopt("delete", "tiny", kubeconfig=ada))

    document = json.loads(ada.read_text())
    token = document["users"][0]["user"]["token"]
    document["users"][0]["user"]["token"] = token[:-4] + "AAAA"
    forged = costopt.folder / "forged.kubeconfig"
    forged.write_text(json.dumps(document))
    said = refused(costopt("status", kubeconfig=forged))
    assert "does not accept your login, which may have expired" in said
    assert token[:20] not in said


def test_kubectl_finds_it_as_a_plugin(costopt: Program) -> None:
    plugin = costopt.folder / "kubectl-costopt"
    plugin.write_text(f"#!{sys.executable}\nfrom costopt.cli import main\nmain()\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    write_manifest(costopt.folder)
    environment = costopt.cluster.environment
    environment["PATH"] = f"{costopt.folder}:{environment['PATH']}"

    def kubectl_costopt(*arguments: str) -> Answer:
        command = [str(costopt.cluster.binaries["kubectl"]), "costopt", *arguments, "-n", costopt.namespace]
        return subprocess.run(command, cwd=costopt.folder, env=environment, capture_output=True, text=True, check=False)

    submitted = kubectl_costopt("submit", "job.yaml")
    assert f"  kubectl costopt watch tiny -n {costopt.namespace}" in submitted.stdout
    assert kubectl_costopt("status", "tiny").stdout.startswith("tiny: New")
    assert kubectl_costopt("status", "tinny").stderr.startswith("kubectl costopt status: there is no job tinny")


def test_a_cluster_without_the_chart_says_how_to_install_it_and_watch_outlives_an_outage(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    write_manifest(tmp_path)
    costopt = Program(own_control_plane, tmp_path, "default")
    for arguments in (("submit", "job.yaml"), ("status",), ("status", "tiny"), ("watch", "tiny")):
        assert "does not know CostOptJob; install the chart: helm install costopt" in refused(costopt(*arguments))

    own_control_plane.install_crds()
    assert costopt("submit", "job.yaml").returncode == 0
    watching = costopt.start("watch", "tiny")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("tiny: New; the operator has not looked at it yet")
    own_control_plane.kill_api_server()
    assert "cannot be reached at https://127.0.0.1:" in refused(costopt("status"))
    said = watching.stdout.readline()
    assert "cannot be reached" in said
    assert said.endswith("; trying again for up to 10 minutes\n")
    own_control_plane.start_api_server()
    failed = runner_in(tmp_path / "failed", command_job(restarts={"maxFailures": 0}), "fail").run().to_plain()
    set_status(costopt, "tiny", failed)
    out, err = watching.communicate(timeout=240)
    assert (watching.returncode, err) == (1, "")
    assert "answers again" in out
    assert "train: attempt 0 failed (ProcessFailed" in out
    assert out.splitlines()[-1].startswith("Failed (")
