"""Installed under other names, elsewhere, only for some namespaces, by a team without cluster rights."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.charts import CHART, NAMESPACE, ROOT, TWO_NAMESPACES, WITHOUT_CLUSTER_RIGHTS
from builders.cluster import Play
from builders.docs_shell import Shell
from builders.docs_walk import FOR_A_TEAM, lay_out
from builders.operator_process import ACCOUNT, OperatorProcess, install
from cluster.clients import Cluster, CommandFailedError
from cluster.control_plane import ControlPlane
from cluster.team import Team
from costopt import names

REFUSED = "set, changed and removed by the costopt operator alone"
ANN, WILDCARD = "ann", "wildcard"


def account(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def marking(cluster: Cluster, user: str, namespace: str) -> str:
    """What the server answers to a user who makes a ConfigMap with our mark: "" if it takes it."""
    marked = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "marked", "labels": names.MANAGED_BY}}
    try:
        cluster.kubectl("create", "--dry-run=server", f"--as={user}", "-f", "-", input=marked, namespace=namespace)
    except CommandFailedError as error:
        return error.errors
    return ""


def allowed(cluster: Cluster, what: str, user: str, namespace: str) -> bool:
    """Whether the server would let the user do it, before any policy is asked."""
    try:
        return cluster.kubectl("auth", "can-i", *what.split(), f"--as={user}", namespace=namespace).strip() == "yes"
    except CommandFailedError:
        return False


def make_namespaces(cluster: Cluster, *namespaces: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in namespaces:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def make_editor(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "rolebinding", ANN, "--clusterrole=edit", f"--user={ANN}", namespace=namespace)


def wait_until_marks_are_guarded(cluster: Cluster, *namespaces: str) -> None:
    """The server learns of a policy, and of roles, a moment after they are written."""
    for namespace in namespaces:
        make_editor(cluster, namespace)
        cluster.wait_for(lambda where=namespace: REFUSED in marking(cluster, ANN, where), what=f"guarded: {namespace}")


def test_an_overlay_that_puts_the_operator_elsewhere_under_other_names_lets_it_set_its_marks_and_nobody_else(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    cluster = own_control_plane
    make_namespaces(cluster, "mlops", "costopt-system", "team-a")
    install_folder = (ROOT / "manifests/install").relative_to(ROOT)
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    for folder, resource in (("", install_folder), ("release", install_folder / "release-finalizers")):
        (tmp_path / folder).mkdir(exist_ok=True)
        source = Path("..") / resource if folder else resource
        plain = {"resources": [str(source)], "namespace": "mlops", "namePrefix": "our-"}
        (tmp_path / folder / "kustomization.yaml").write_text(yaml.safe_dump(plain))
    cluster.kubectl("apply", "--server-side", "-k", tmp_path)
    cluster.kubectl("apply", "--server-side", "-k", tmp_path / "release")
    wait_until_marks_are_guarded(cluster, "team-a")
    cluster.wait_for(lambda: marking(cluster, account("mlops", "our-costopt-operator"), "team-a") == "")
    pods = cluster.get("deployment", "our-costopt-operator", namespace="mlops")["spec"]["template"]["spec"]
    assert pods["serviceAccountName"] == "our-costopt-operator"
    held = {"name": "held", "labels": names.MANAGED_BY, "finalizers": [names.USAGE_FINALIZER]}
    cluster.kubectl("create", "namespace", "any-pods")
    cluster.wait_for(lambda: "default" in cluster.kubectl("get", "serviceaccounts", namespace="any-pods"))
    spec = {"containers": [{"name": "main", "image": "registry.invalid/any:1"}]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": held, "spec": spec}, namespace="any-pods")
    letting_go = ["patch", "pod", "held", "--type=merge", "--patch", '{"metadata": {"finalizers": null}}']
    make_editor(cluster, "any-pods")
    cluster.wait_for(lambda: allowed(cluster, "patch pods", ANN, "any-pods"))
    with pytest.raises(CommandFailedError, match=REFUSED):
        cluster.kubectl(*letting_go, f"--as={ANN}", namespace="any-pods")
    kubeconfig = cluster.kubeconfig_for_service_account("mlops", "our-costopt-release-finalizers")
    code, printed = Shell(tmp_path / "bin")(f"costopt-operator release-finalizers --kubeconfig={kubeconfig}", tmp_path)
    assert code == 0, printed
    assert "finalizers" not in cluster.get("pod", "held", namespace="any-pods")["metadata"]
    stranger = account(NAMESPACE, ACCOUNT)
    cluster.kubectl("create", "rolebinding", "s", "--clusterrole=edit", f"--user={stranger}", namespace="team-a")
    cluster.wait_for(lambda: REFUSED in marking(cluster, stranger, "team-a"), what="a name alone lets nobody through")


RELEASES: dict[str, dict[str, Any]] = {
    "in the whole cluster": {},
    "in a team's namespaces": {"rbac": TWO_NAMESPACES},
}


@pytest.mark.parametrize("where", RELEASES)
def test_a_release_of_any_name_in_any_namespace_with_any_account_lets_its_operator_set_marks(
    own_control_plane: ControlPlane, where: str
) -> None:
    cluster = own_control_plane
    make_namespaces(cluster, "mlops", "team-a", "team-b")
    also = "system:serviceaccount:kueue-system:kueue-controller-manager"
    values = {
        **RELEASES[where],
        "replicas": 1,
        "serviceAccount": {"name": "mine"},
        "admissionPolicy": {"alsoAllowed": [also]},
    }
    cluster.helm("install", "other", CHART, "--wait=false", "--values", "-", input=values, namespace="mlops")
    wait_until_marks_are_guarded(cluster, "team-a", "team-b")
    for namespace in ("team-a", "team-b"):
        cluster.kubectl("create", "rolebinding", "k", "--clusterrole=edit", f"--user={also}", namespace=namespace)
        for user in (account("mlops", "mine"), also):
            cluster.wait_for(lambda: marking(cluster, user, namespace) == "", what=f"{user} let through")  # noqa: B023
    assert (marking(cluster, account("mlops", "mine"), "mlops") == "") == (not RELEASES[where])


def test_a_role_with_every_right_in_a_namespace_is_the_operators_equal_there_and_nowhere_else(
    own_control_plane: ControlPlane,
) -> None:
    cluster = own_control_plane
    install(cluster)
    make_namespaces(cluster, "team-a", "team-b")
    wait_until_marks_are_guarded(cluster, "team-a", "team-b")
    cluster.kubectl("create", "role", "all", "--verb=*", "--resource=*.*", namespace="team-a")
    cluster.kubectl("create", "rolebinding", "all", "--role=all", f"--user={WILDCARD}", namespace="team-a")
    cluster.kubectl("create", "rolebinding", "w", "--clusterrole=admin", f"--user={WILDCARD}", namespace="team-b")
    cluster.wait_for(lambda: REFUSED in marking(cluster, WILDCARD, "team-b"))
    status = ["auth", "can-i", "update", "costoptjobs.costopt.dev", "--subresource=status", f"--as={WILDCARD}"]
    assert cluster.kubectl(*status, namespace="team-a").strip() == "yes"
    assert marking(cluster, WILDCARD, "team-a") == ""


def test_a_team_without_rights_on_the_cluster_is_told_what_it_may_not_and_installs_what_an_administrator_leaves_to_it(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    cluster = own_control_plane
    make_namespaces(cluster, NAMESPACE, *TWO_NAMESPACES["namespaces"])
    for namespace in (NAMESPACE, *TWO_NAMESPACES["namespaces"]):
        cluster.kubectl("create", "rolebinding", ANN, "--clusterrole=admin", f"--user={ANN}", namespace=namespace)

    def by_ann(verb: str, **values: Any) -> str:
        words = [verb, "costopt", CHART, "--wait=false", f"--kube-as-user={ANN}", "--values", "-"]
        return cluster.helm(*words, input={"rbac": TWO_NAMESPACES, **values}, namespace=NAMESPACE)

    with pytest.raises(CommandFailedError, match=f'User "{ANN}" cannot .* at the cluster scope'):
        by_ann("install")
    assert "deployments" not in cluster.kubectl("get", "all", "-o", "name", namespace=NAMESPACE)
    with pytest.raises(CommandFailedError, match="attempting to grant RBAC permissions not currently held"):
        by_ann("install", **WITHOUT_CLUSTER_RIGHTS)
    cluster.helm("uninstall", "costopt", "--no-hooks", f"--kube-as-user={ANN}", namespace=NAMESPACE)

    administrators, teams, _ = FOR_A_TEAM.commands
    here = lay_out(tmp_path / "here")
    (here / "values.yaml").write_text(yaml.safe_dump({"rbac": TWO_NAMESPACES}))
    for command, variables in ((administrators, {}), (teams, {"HELM_KUBEASUSER": ANN})):
        code, printed = Shell(tmp_path / "bin", {**cluster.environment, **variables})(command.text, here)
        assert code == 0, f"{command.place}: {printed}"
    for namespace in TWO_NAMESPACES["namespaces"]:
        cluster.wait_for(lambda where=namespace: REFUSED in marking(cluster, ANN, where))
        assert marking(cluster, account(NAMESPACE, ACCOUNT), namespace) == ""
    cluster.helm("uninstall", "costopt", f"--kube-as-user={ANN}", namespace=NAMESPACE)


def test_pods_of_a_namespace_that_was_taken_out_are_let_go_of_by_an_administrators_command(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    cluster = own_control_plane
    make_namespaces(cluster, *TWO_NAMESPACES["namespaces"])
    kubeconfig = install(cluster, rbac=TWO_NAMESPACES)
    staying, leaving = Team(cluster, "team-a"), Team(cluster, "team-b")
    with OperatorProcess(cluster, kubeconfig, "--namespace=team-a", "--namespace=team-b") as operator:
        jobs = [team.submit(Play(run_seconds="forever")) for team in (staying, leaving)]
        for job in jobs:
            job.wait_until_running()
        operator.stop()
    with OperatorProcess(cluster, kubeconfig, "--namespace=team-a"):
        for job in jobs:
            job.delete()
        staying.wait_for(lambda: not jobs[0].pods(), "the pods of the namespace that stays gone")
        cluster.wait_for(lambda: all("deletionTimestamp" in pod["metadata"] for pod in jobs[1].pods()))
        assert len(jobs[1].pods()) == 2, "nobody lets go of them"
        command = FOR_A_TEAM.commands[-1]
        code, printed = Shell(tmp_path / "bin", cluster.environment)(command.text, tmp_path)
        assert code == 0, f"{command.place}: {printed}"
        leaving.wait_for(lambda: not jobs[1].pods(), "the pods of the namespace that was taken out gone")
    for team in (staying, leaving):
        team.close()


def test_a_namespace_of_such_a_release_is_deleted_to_its_end_while_a_job_runs_there(
    own_control_plane: ControlPlane,
) -> None:
    cluster = own_control_plane
    make_namespaces(cluster, *TWO_NAMESPACES["namespaces"])
    kubeconfig = install(cluster, rbac=TWO_NAMESPACES)
    team = Team(cluster, "team-b")
    with OperatorProcess(cluster, kubeconfig, "--namespace=team-a", "--namespace=team-b"):
        team.submit(Play(run_seconds="forever")).wait_until_running()
        cluster.kubectl("delete", "namespace", "team-b", "--wait=false")
        cluster.wait_for(lambda: "team-b" not in cluster.kubectl("get", "namespaces", "-o", "name"))
    team.close()
