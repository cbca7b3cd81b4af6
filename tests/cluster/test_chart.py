"""Installing, upgrading and uninstalling with the real helm and kubectl on a real API server.

kwok plays the pods: the operator's run without doing anything, and those of hooks succeed. The hook that writes price
books is tested by running its program here, with the token of its account.
"""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builders.charts import (
    BOOKS,
    CHART,
    MODES,
    NAMESPACE,
    PRICE_BOOK,
    ROOT,
    TWO_NAMESPACES,
    hooks_of,
    objects_of,
    rendered,
    the,
)
from builders.cluster import Play, play
from cluster.clients import Cluster, CommandFailedError
from cluster.control_plane import ControlPlane

DEFINITIONS = ("crd/costoptjobs.costopt.dev", "crd/pricebooks.costopt.dev")
JOB = ROOT / "manifests/samples/own-script.yaml"


def make_namespace(cluster: Cluster, name: str) -> None:
    """A namespace that admits only pods of the restricted standard."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def helm(cluster: Cluster, verb: str, **values: Any) -> str:
    """`helm install` or `upgrade` of the chart; what it printed. The operator's pods run until they are deleted."""
    values = {"podAnnotations": play(Play(run_seconds="forever")), **values}
    words = [verb, "costopt", CHART, "--wait=false", "--timeout=60s", "--values", "-"]
    return cluster.helm(*words, input=values, namespace=NAMESPACE)


def wait_until_established(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Established", *DEFINITIONS, "--timeout=30s")


def names(cluster: Cluster, kind: str, namespace: str | None = None) -> list[str]:
    return cluster.kubectl("get", kind, "-o", "name", namespace=namespace).split()


def may(cluster: Cluster, user: str, what: str, namespace: str | None = None) -> bool:
    """Whether the API server would let `user` do it, as in `list pods`."""
    where = ["--namespace", namespace] if namespace else ["--all-namespaces"]
    try:
        return cluster.kubectl("auth", "can-i", *what.split(), f"--as={user}", *where).strip() == "yes"
    except CommandFailedError:
        return False


def test_an_installation_runs_the_operator_as_a_restricted_pod_and_says_what_to_type(
    own_control_plane: ControlPlane,
) -> None:
    cluster = own_control_plane
    make_namespace(cluster, NAMESPACE)
    notes = helm(cluster, "install", priceBooks=BOOKS).partition("NOTES:")[2]
    wait_until_established(cluster)
    commands = [line.split() for line in notes.splitlines() if line.startswith("  kubectl")]
    assert commands[0] == ["kubectl", "--namespace", NAMESPACE, "rollout", "status", "deployment/costopt-operator"]
    assert "successfully rolled out" in cluster.kubectl(*commands[0][1:], "--timeout=60s")
    assert cluster.kubectl("explain", "costoptjob.spec")
    # The hook that writes price books was admitted, ran to its end, and is gone with all that came with it.
    left = cluster.kubectl("get", "jobs,configmaps,serviceaccounts", "-o", "name", namespace=NAMESPACE)
    assert "price-books" not in left
    assert "clusterrole.rbac.authorization.k8s.io/costopt-price-books" not in names(cluster, "clusterroles")


def test_an_upgrade_and_an_uninstallation_keep_jobs_and_a_new_installation_finds_them(
    own_control_plane: ControlPlane,
) -> None:
    cluster = own_control_plane
    make_namespace(cluster, NAMESPACE)
    helm(cluster, "install")
    wait_until_established(cluster)
    cluster.kubectl("apply", "-f", JOB, namespace="default")
    uid = cluster.get("costoptjob", "own-script", namespace="default")["metadata"]["uid"]

    helm(cluster, "upgrade", replicas=1, log={"level": "DEBUG"})
    deployment = cluster.get("deployment", "costopt-operator", namespace=NAMESPACE)
    assert "--log-level=DEBUG" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert names(cluster, "poddisruptionbudgets", NAMESPACE) == []

    cluster.helm("uninstall", "costopt", namespace=NAMESPACE)
    assert names(cluster, "deployments,services,roles,jobs,networkpolicies", NAMESPACE) == []
    assert not [name for name in names(cluster, "clusterroles,clusterrolebindings") if "costopt" in name]
    assert cluster.get("costoptjob", "own-script", namespace="default")["metadata"]["uid"] == uid

    helm(cluster, "install", crds={"keep": False})
    assert cluster.get("costoptjob", "own-script", namespace="default")["metadata"]["uid"] == uid
    wait_until_established(cluster)

    def can_be_listed() -> bool:
        try:
            return bool(cluster.kubectl("get", "costoptjobs,pricebooks", "--all-namespaces", "-o", "name"))
        except CommandFailedError:
            return False

    # Definitions that were written a moment ago have no storage yet, and are cleaned up minutes later.
    cluster.wait_for(can_be_listed)
    cluster.helm("uninstall", "costopt", namespace=NAMESPACE)
    cluster.wait_for(
        lambda: not [name for name in names(cluster, "crds") if "costopt.dev" in name], seconds=600, what="gone"
    )


def start_hook(cluster: Cluster, folder: Path, **values: Any) -> subprocess.Popen[str]:
    """Start the program of the Job that writes price books, with its files and with the rights of its account."""
    hooks = [one for one in rendered(**values) if "post-install" in hooks_of(one)]
    cluster.apply(*(one for one in hooks if one["kind"] != "Job"))
    for name, text in the("ConfigMap", hooks)["data"].items():
        (folder / name).write_text(text)
    account = the("ServiceAccount", hooks)["metadata"]["name"]
    view = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "-o", "json"))["clusters"][0]["cluster"]
    (folder / "token").write_text(cluster.kubectl("create", "token", account, namespace=NAMESPACE).strip())
    (folder / "ca.crt").write_bytes(certificate_authority(view))
    host, _, port = view["server"].removeprefix("https://").rpartition(":")
    environment = {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
        "COSTOPT_ACCOUNT_DIR": str(folder),
    }
    script = the("Job", hooks)["spec"]["template"]["spec"]["containers"][0]["command"][1].rpartition("/")[2]
    return subprocess.Popen(
        [sys.executable, str(folder / script)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_hook(cluster: Cluster, folder: Path, **values: Any) -> tuple[int, str]:
    """Run it to its end: exit code, and what it wrote to its error output."""
    with start_hook(cluster, folder, **values) as started:
        _, errors = started.communicate(timeout=150)
    return started.returncode, errors


def certificate_authority(view: dict[str, str]) -> bytes:
    """A kubeconfig's, which is a file or is in it."""
    if "certificate-authority" in view:
        return Path(view["certificate-authority"]).read_bytes()
    return base64.b64decode(view["certificate-authority-data"])


def test_the_price_books_job_waits_for_the_kind_writes_the_books_changes_them_in_place_and_says_why_one_is_refused(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    cluster = own_control_plane
    make_namespace(cluster, NAMESPACE)
    with start_hook(cluster, tmp_path, priceBooks=BOOKS) as first:
        assert first.stdout is not None
        assert "PriceBook is not served yet" in first.stdout.readline()
        cluster.apply(*objects_of("CustomResourceDefinition", rendered()))
        first.communicate(timeout=150)
    assert first.returncode == 0
    book = cluster.get("pricebook", "default")
    assert book["spec"]["prices"][0]["listUnitPrice"] == "0.0400"

    dearer = {**PRICE_BOOK, "prices": [{**PRICE_BOOK["prices"][0], "listUnitPrice": "0.0500"}]}
    assert run_hook(cluster, tmp_path, priceBooks={"default": dearer})[0] == 0
    changed = cluster.get("pricebook", "default")
    assert changed["spec"]["prices"][0]["listUnitPrice"] == "0.0500"
    assert changed["metadata"]["uid"] == book["metadata"]["uid"]

    wrong = {**PRICE_BOOK, "prices": [{**PRICE_BOOK["prices"][0], "unit": "GPU-Hours"}]}
    code, errors = run_hook(cluster, tmp_path, priceBooks={"default": dearer, "wrong": wrong})
    assert code == 1
    assert "price book wrong is refused" in errors
    assert "unit must be the resource's own" in errors


def test_kubectl_installs_the_same_and_removing_the_operator_keeps_jobs(own_control_plane: ControlPlane) -> None:
    cluster = own_control_plane
    install = ROOT / "manifests/install"
    make_namespace(cluster, NAMESPACE)
    dry = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-k", install)
    assert "deployment.apps/costopt-operator created (server dry run)" in dry
    cluster.kubectl("apply", "--validate=strict", "-k", install)
    wait_until_established(cluster)
    rollout = ["rollout", "status", "deployment/costopt-operator", "--timeout=60s"]
    cluster.kubectl(*rollout, namespace=NAMESPACE)
    cluster.kubectl("apply", "-f", JOB, namespace="default")

    cluster.kubectl("apply", "--validate=strict", "-k", install / "release-finalizers")
    done = ["wait", "--for=condition=Complete", "job/costopt-release-finalizers", "--timeout=60s"]
    cluster.kubectl(*done, namespace=NAMESPACE)
    cluster.kubectl("delete", "-k", install / "release-finalizers")
    cluster.kubectl("delete", "-k", install / "operator")
    assert names(cluster, "costoptjobs", "default") == ["costoptjob.costopt.dev/own-script"]
    assert not [name for name in names(cluster, "clusterroles,clusterrolebindings") if "costopt" in name]


def test_every_object_of_every_mode_passes_the_servers_validation(own_control_plane: ControlPlane) -> None:
    cluster = own_control_plane
    for namespace in (NAMESPACE, *TWO_NAMESPACES["namespaces"]):
        make_namespace(cluster, namespace)
    for mode, values in MODES.items():
        # The ServiceMonitor's definition is the Prometheus operator's, which is not here.
        objects = [one for one in rendered(**values) if one["kind"] != "ServiceMonitor"]
        document = {"apiVersion": "v1", "kind": "List", "items": objects}
        try:
            cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=document)
        except CommandFailedError as error:
            pytest.fail(f"{mode}: {error.errors}")


def test_with_scope_namespaced_the_operator_may_act_in_its_namespaces_only_and_users_get_jobs_through_edit(
    own_control_plane: ControlPlane,
) -> None:
    cluster = own_control_plane
    for namespace in (NAMESPACE, *TWO_NAMESPACES["namespaces"]):
        make_namespace(cluster, namespace)
    helm(cluster, "install", rbac=TWO_NAMESPACES)
    operator = f"system:serviceaccount:{NAMESPACE}:costopt-operator"
    assert may(cluster, operator, "create jobs.batch", "team-a")
    assert may(cluster, operator, "patch pods", "team-b")
    assert may(cluster, operator, "get nodes")
    assert may(cluster, operator, "update leases.coordination.k8s.io/costopt-operator", NAMESPACE)
    assert not may(cluster, operator, "list pods", "default")
    assert not may(cluster, operator, "list pods")
    assert not may(cluster, operator, "list pricebooks.costopt.dev")
    assert not may(cluster, operator, "get secrets", "team-a")

    for user, role in (("ann", "edit"), ("bob", "view")):
        cluster.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", namespace="team-a")
    cluster.wait_for(lambda: may(cluster, "ann", "create costoptjobs.costopt.dev", "team-a"))
    cluster.wait_for(lambda: may(cluster, "bob", "get costoptjobs.costopt.dev", "team-a"))
    assert not may(cluster, "bob", "create costoptjobs.costopt.dev", "team-a")
    assert not may(cluster, "ann", "update costoptjobs.costopt.dev --subresource=status", "team-a")
    assert not may(cluster, "ann", "create costoptjobs.costopt.dev", "team-b")
