"""What the operator may do: exactly this, in a ClusterRole or in Roles, and nothing with secrets."""

from typing import Any

import pytest

from builders.charts import (
    NAMESPACE,
    PRICE_BOOK,
    TWO_NAMESPACES,
    WITHOUT_CLUSTER_RIGHTS,
    hooks_of,
    objects_of,
    rendered,
)
from costopt.schema.base import API_GROUP
from costopt.schema.kinds import KINDS, Kind

Permission = tuple[str, str, str]

IN_A_NAMESPACE = {
    ("costopt.dev", "costoptjobs"): "get list watch delete",
    ("costopt.dev", "costoptjobs/status"): "update",
    ("costopt.dev", "costoptjobs/finalizers"): "update",
    ("batch", "jobs"): "get list watch create delete",
    ("", "pods"): "list watch patch delete",
    ("", "pods/log"): "get",
    ("", "services"): "get list watch create",
    ("", "configmaps"): "get create update",
    ("", "persistentvolumeclaims"): "get create",
    ("networking.k8s.io", "networkpolicies"): "get create",
    ("scheduling.k8s.io", "workloads"): "get create",
    ("scheduling.k8s.io", "podgroups"): "get create",
    ("", "events"): "create",
}
NODES = {("", "nodes"): "get"}
PRICE_BOOKS = {("costopt.dev", "pricebooks"): "list watch"}
LEASES = {("coordination.k8s.io", "leases"): "get create update"}


def permissions(table: dict[tuple[str, str], str]) -> set[Permission]:
    return {(group, resource, verb) for (group, resource), verbs in table.items() for verb in verbs.split()}


def granted(objects: list[dict[str, Any]], account: str) -> dict[str | None, set[Permission]]:
    """What the service account may do, by namespace; None is the whole cluster."""
    roles = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one for one in objects}
    found: dict[str | None, set[Permission]] = {}
    for binding in objects_of("ClusterRoleBinding", objects) + objects_of("RoleBinding", objects):
        if binding["subjects"] != [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]:
            continue
        namespace = binding["metadata"].get("namespace")
        role = roles[binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"]]
        found.setdefault(namespace, set()).update(
            (group, resource, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        )
    return found


def test_in_a_cluster_the_operator_may_do_what_it_needs_and_no_more() -> None:
    assert granted(rendered(), "costopt-operator") == {
        None: permissions({**IN_A_NAMESPACE, **NODES, **PRICE_BOOKS}),
        NAMESPACE: permissions(LEASES),
    }


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: str(kind.name))
def test_every_kind_of_ours_may_be_watched_by_the_operator_and_one_of_a_namespace_be_read_there_by_its_users(
    kind: Kind,
) -> None:
    in_all, objects = granted(rendered(), "costopt-operator")[None], rendered()
    assert {(API_GROUP, kind.plural, verb) for verb in ("list", "watch")} <= in_all
    assert ((API_GROUP, f"{kind.plural}/status", "update") in in_all) == (kind.status is not None)
    roles = {one["metadata"]["name"]: one for one in objects_of("ClusterRole", objects)}
    for name in ("costopt-edit", "costopt-view"):
        readable = {one for rule in roles[name]["rules"] if "get" in rule["verbs"] for one in rule["resources"]}
        assert (kind.plural in readable) == kind.namespaced
        assert (f"{kind.plural}/status" in readable) == (kind.namespaced and kind.status is not None)


@pytest.mark.parametrize("read_nodes", [True, False])
def test_in_namespaces_it_may_do_the_same_there_and_get_nodes_only_if_allowed(read_nodes: bool) -> None:
    given = granted(rendered(rbac={**TWO_NAMESPACES, "readNodes": read_nodes}), "costopt-operator")
    assert given.pop(None, set()) == (permissions(NODES) if read_nodes else set())
    assert given == {
        "team-a": permissions(IN_A_NAMESPACE),
        "team-b": permissions(IN_A_NAMESPACE),
        NAMESPACE: permissions(LEASES),
    }


def test_the_releases_own_namespace_is_one_of_its_namespaces_only_if_it_is_named() -> None:
    own = {"scope": "Namespaced", "namespaces": [NAMESPACE]}
    assert granted(rendered(rbac=own), "costopt-operator")[NAMESPACE] == permissions({**IN_A_NAMESPACE, **LEASES})


def test_what_belongs_to_the_whole_cluster_can_be_left_out() -> None:
    scoped = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    scoped |= {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert scoped <= {one["kind"] for one in rendered(rbac=TWO_NAMESPACES)}
    kinds = {one["kind"] for one in rendered(**WITHOUT_CLUSTER_RIGHTS)}
    assert not kinds & scoped
    assert {"Deployment", "Role", "RoleBinding"} <= kinds


def test_only_its_own_lease_can_be_changed() -> None:
    role = next(one for one in objects_of("Role", rendered()) if one["metadata"]["name"].endswith("leader-election"))
    changing = [rule for rule in role["rules"] if "update" in rule["verbs"]]
    assert [rule["resourceNames"] for rule in changing] == [["costopt-operator"]]


@pytest.mark.parametrize("rbac", [{}, TWO_NAMESPACES])
def test_the_uninstalling_job_may_find_pods_and_change_them_and_is_known_to_the_admission_policy(
    rbac: dict[str, Any],
) -> None:
    given = granted(rendered(rbac=rbac), "costopt-release-finalizers")
    assert given.keys() == ({"team-a", "team-b"} if rbac else {None})
    wanted = permissions({("", "pods"): "list patch", ("costopt.dev", "costoptjobs/status"): "update"})
    assert all(one == wanted for one in given.values())


def test_the_job_that_writes_price_books_may_change_those_of_the_values_only() -> None:
    objects = rendered(priceBooks={"default": PRICE_BOOK, "spot": PRICE_BOOK})
    assert granted(objects, "costopt-price-books") == {
        None: permissions({("costopt.dev", "pricebooks"): "create patch"})
    }
    role = next(one for one in objects_of("ClusterRole", objects) if one["metadata"]["name"] == "costopt-price-books")
    changing = [rule for rule in role["rules"] if "patch" in rule["verbs"]]
    assert [rule["resourceNames"] for rule in changing] == [["default", "spot"]]


@pytest.mark.parametrize("rbac", [{}, TWO_NAMESPACES])
def test_no_role_mentions_secrets_or_a_wildcard(rbac: dict[str, Any]) -> None:
    objects = rendered(rbac=rbac, priceBooks={"default": PRICE_BOOK})
    rules = [rule for kind in ("ClusterRole", "Role") for one in objects_of(kind, objects) for rule in one["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"secrets", "serviceaccounts/token"} & set(rule["resources"])
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_the_clusters_own_edit_and_view_roles_get_jobs() -> None:
    roles = {one["metadata"]["name"]: one for one in objects_of("ClusterRole", rendered()) if not hooks_of(one)}
    edit, view = roles["costopt-edit"], roles["costopt-view"]

    def aggregated_to(role: dict[str, Any]) -> set[str]:
        prefix = "rbac.authorization.k8s.io/aggregate-to-"
        return {key.removeprefix(prefix) for key in role["metadata"]["labels"] if key.startswith(prefix)}

    assert aggregated_to(edit) == {"admin", "edit"}
    assert aggregated_to(view) == {"view"}
    for role in (edit, view):
        assert {resource for rule in role["rules"] for resource in rule["resources"]} == {
            "costoptjobs",
            "costoptjobs/status",
        }
    changing = {"create", "update", "patch", "delete", "deletecollection"}
    # A user's bill is the operator's to write.
    for role in (edit, view):
        assert not [
            rule
            for rule in role["rules"]
            if "costoptjobs/status" in rule["resources"] and changing & set(rule["verbs"])
        ]
    assert not [rule for rule in view["rules"] if changing & set(rule["verbs"])]


def test_roles_can_be_left_to_others() -> None:
    objects = rendered(rbac={"create": False, "userRoles": False})
    assert not [one for one in objects if one["apiVersion"].startswith("rbac.authorization.k8s.io")]
    assert len(objects_of("ServiceAccount", objects)) == 2
