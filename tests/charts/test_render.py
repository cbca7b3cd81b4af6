"""What the chart renders, by the real helm: pods, arguments, price books, hooks, in both scopes."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from builders.charts import (
    BOOKS,
    CHART,
    EVERY_SETTING,
    KUBERNETES_VERSION,
    MODES,
    NAMESPACE,
    PRICE_BOOK,
    TWO_NAMESPACES,
    helm,
    hooks_of,
    objects_of,
    pod_specs,
    rendered,
    template,
    the,
)


def operator_container(**values: Any) -> dict[str, Any]:
    (container,) = the("Deployment", rendered(**values))["spec"]["template"]["spec"]["containers"]
    return container


def test_helm_lint_has_nothing_to_say() -> None:
    answer = helm("lint", "--strict", str(CHART), "--kube-version", KUBERNETES_VERSION)
    assert answer.returncode == 0, answer.stdout
    assert "WARNING" not in answer.stdout
    assert "ERROR" not in answer.stdout


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_renders_objects_with_unique_names_and_the_charts_labels(mode: str) -> None:
    objects = rendered(**MODES[mode])
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    for one in objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/name"] == "costopt"
        # This value on an object would make it a child of some job in the operator's eyes.
        assert one["metadata"]["labels"]["app.kubernetes.io/managed-by"] != "costopt"


@pytest.mark.parametrize("mode", MODES)
def test_every_pod_meets_the_restricted_standard(mode: str) -> None:
    pods = pod_specs(rendered(**MODES[mode]))
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {source for volume in pod.get("volumes", []) for source in volume} <= {"name", "emptyDir", "configMap"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_two_replicas_elect_one_and_rather_run_on_different_nodes() -> None:
    deployment = the("Deployment", rendered())
    pod = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["replicas"] == 2
    assert "--lease-name=costopt-operator" in pod["containers"][0]["args"]
    preferred = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [term["podAffinityTerm"]["topologyKey"] for term in preferred] == ["kubernetes.io/hostname"]
    assert [one["whenUnsatisfiable"] for one in pod["topologySpreadConstraints"]] == ["ScheduleAnyway"]


def test_probes_ask_the_port_that_the_operator_listens_on() -> None:
    container = operator_container()
    assert container["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    assert "--listen=:8080" in container["args"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_images_name_no_registry_unless_told_and_a_digest_goes_before_the_tag() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert operator_container()["image"] == f"costopt-operator:{about['appVersion']}"
    assert operator_container(image={"tag": "next"})["image"] == "costopt-operator:next"
    assert operator_container(**EVERY_SETTING)["image"] == f"images.example/costopt-operator@sha256:{'0' * 64}"


def test_the_chart_has_the_projects_version_and_the_trainers_default_image() -> None:
    from importlib.metadata import version

    from costopt.render.manifests import DEFAULT_IMAGE

    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == version("costopt")
    assert f"--default-image={DEFAULT_IMAGE}" in operator_container()["args"]


def test_scope_namespaced_names_each_namespace_to_the_operator_and_to_the_uninstalling_job() -> None:
    objects = rendered(rbac=TWO_NAMESPACES)
    (job,) = objects_of("Job", objects)
    for args in (
        the("Deployment", objects)["spec"]["template"]["spec"]["containers"][0]["args"],
        job["spec"]["template"]["spec"]["containers"][0]["args"],
    ):
        assert [one for one in args if one.startswith("--namespace")] == ["--namespace=team-a", "--namespace=team-b"]
    assert not [one for one in operator_container()["args"] if one.startswith("--namespace")]


def test_metrics_are_served_unless_the_values_say_no() -> None:
    assert "--no-metrics" not in operator_container()["args"]
    assert "--no-metrics" in operator_container(metrics={"enabled": False})["args"]


def test_system_priority_is_allowed_to_jobs_only_where_the_values_say_so() -> None:
    assert "--allow-system-priority" not in operator_container()["args"]
    assert "--allow-system-priority" in operator_container(jobs={"allowSystemPriority": True})["args"]


def test_in_a_cluster_a_job_writes_the_price_books_after_each_installation_upgrade_and_rollback() -> None:
    hooks = [one for one in rendered(priceBooks=BOOKS) if "post-install" in hooks_of(one)]
    assert all(hooks_of(one) == {"post-install", "post-upgrade", "post-rollback"} for one in hooks)
    job, files = the("Job", hooks), the("ConfigMap", hooks)
    pod = job["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == the("ServiceAccount", hooks)["metadata"]["name"]
    assert pod["volumes"][0]["configMap"]["name"] == files["metadata"]["name"]
    program, script = pod["containers"][0]["command"]
    folder, _, name = script.rpartition("/")
    assert (program, folder) == ("python", pod["containers"][0]["volumeMounts"][0]["mountPath"])
    assert files["data"][name].strip() == (CHART / "files" / name).read_text().strip()
    assert json.loads(files["data"]["default.json"])["spec"] == PRICE_BOOK
    weights = {one["kind"]: int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in hooks}
    assert weights.pop("Job") > max(weights.values())
    assert not [one for one in rendered() if "post-install" in hooks_of(one)]


def test_without_reading_the_clusters_price_books_there_is_always_a_folder_of_them() -> None:
    objects = rendered(rbac=TWO_NAMESPACES)
    assert "data" not in the("ConfigMap", objects)
    (container,) = the("Deployment", objects)["spec"]["template"]["spec"]["containers"]
    assert "--price-books=/etc/costopt/price-books" in container["args"]


def test_in_a_namespace_price_books_are_files_that_the_schema_reads_and_new_prices_start_new_pods() -> None:
    from costopt.schema.prices import PriceBook

    objects = rendered(rbac=TWO_NAMESPACES, priceBooks=BOOKS)
    assert not [one for one in objects if "post-install" in hooks_of(one)]
    ((name, text),) = the("ConfigMap", objects)["data"].items()
    book = PriceBook.model_validate(yaml.safe_load(text))
    assert (name, book.metadata.name, book.spec.currency) == ("default.yaml", "default", "USD")
    pod = the("Deployment", objects)["spec"]["template"]
    container = pod["spec"]["containers"][0]
    mount = next(one for one in container["volumeMounts"] if one["name"] == "price-books")
    assert f"--price-books={mount['mountPath']}" in container["args"]
    dearer = {"default": {**PRICE_BOOK, "prices": [{**PRICE_BOOK["prices"][0], "listUnitPrice": "0.05"}]}}
    again = the("Deployment", rendered(rbac=TWO_NAMESPACES, priceBooks=dearer))["spec"]["template"]
    assert again["metadata"]["annotations"] != pod["metadata"]["annotations"]


def test_definitions_stay_on_uninstall_unless_told_otherwise_and_can_be_left_to_others() -> None:
    def policies(**values: Any) -> list[str | None]:
        return [
            one["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            for one in objects_of("CustomResourceDefinition", rendered(**values))
        ]

    assert policies() == ["keep", "keep"]
    assert policies(crds={"keep": False}) == [None, None]
    assert policies(crds={"enabled": False}) == []


def test_uninstalling_releases_finalizers_before_and_after_with_an_account_of_its_own() -> None:
    hooks = [one for one in rendered() if "pre-delete" in hooks_of(one)]
    assert sorted(one["kind"] for one in hooks) == ["ClusterRole", "ClusterRoleBinding", "Job", "ServiceAccount"]
    job = the("Job", hooks)
    assert all(hooks_of(one) == {"pre-delete", "post-delete"} for one in hooks)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["costopt-operator", "release-finalizers"]
    assert pod["serviceAccountName"] == the("ServiceAccount", hooks)["metadata"]["name"]
    assert [one for one in rendered(uninstall={"releaseFinalizers": False}) if hooks_of(one)] == []


def test_a_disruption_budget_needs_two_replicas() -> None:
    assert the("PodDisruptionBudget", rendered())["spec"]["minAvailable"] == 1
    assert objects_of("PodDisruptionBudget", rendered(replicas=1)) == []


def test_nobody_reads_metrics_who_is_not_named_and_those_reach_their_port_alone() -> None:
    spec = the("NetworkPolicy", rendered())["spec"]
    assert (spec["policyTypes"], spec["ingress"]) == (["Ingress"], [])
    opened = the("NetworkPolicy", rendered(**EVERY_SETTING))["spec"]["ingress"]
    ports = [{"port": "http", "protocol": "TCP"}]
    assert opened == [{"ports": ports, "from": EVERY_SETTING["networkPolicy"]["metricsFrom"]}]


def test_services_monitors_budgets_and_policies_select_the_operators_pods_and_no_others() -> None:
    objects = rendered(**EVERY_SETTING)
    deployment = the("Deployment", objects)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        the("Service", objects)["spec"]["selector"],
        the("PodDisruptionBudget", objects)["spec"]["selector"]["matchLabels"],
        the("NetworkPolicy", objects)["spec"]["podSelector"]["matchLabels"],
    ]
    jobs = [job["spec"]["template"]["metadata"]["labels"] for job in objects_of("Job", objects)]
    assert jobs
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not [one for one in jobs if selector.items() <= one.items()]
    monitor = the("ServiceMonitor", objects)["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= the("Service", objects)["metadata"]["labels"].items()


@pytest.mark.parametrize("mode", MODES)
def test_every_flag_in_the_chart_is_one_of_the_operators(mode: str) -> None:
    if importlib.util.find_spec("costopt_operator.__main__") is None:
        pytest.skip("needs the operator's command line")
    containers = [one for pod in pod_specs(rendered(**MODES[mode])) for one in pod["containers"]]
    for container in containers:
        program, *arguments = [*container["command"], *container.get("args", [])]
        if program != "costopt-operator":
            continue
        used = {one.split("=")[0] for one in arguments[1:]}
        assert used <= flags_of(arguments[0]), used - flags_of(arguments[0])


@functools.cache
def flags_of(subcommand: str) -> frozenset[str]:
    """The operator's own, by its help."""
    command = [sys.executable, "-m", "costopt_operator", subcommand, "--help"]
    # Wide, so that the table of options wraps no name.
    environment = {"COLUMNS": "300", "TERMINAL_WIDTH": "300", "NO_COLOR": "1", "PATH": ""}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")  # the operator of these very sources
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return frozenset(re.findall(r"--[a-z][a-z-]+", asked.stdout))


POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


def test_who_may_set_marks_follows_from_rights_and_from_who_is_named_and_never_from_the_releases_own_names() -> None:
    objects = rendered(**EVERY_SETTING)
    policy, binding = (the(kind, objects) for kind in POLICIES)
    by_whom = policy["spec"]["matchConditions"][0]["expression"]
    also = EVERY_SETTING["admissionPolicy"]["alsoAllowed"]
    assert re.findall(r"'([^']*)'", by_whom) == also
    # An overlay renames accounts and namespaces, but not what is in a text.
    assert all(f"serviceaccount:{NAMESPACE}" not in json.dumps(the(kind, rendered())) for kind in POLICIES)
    assert len(the(POLICIES[0], rendered())["spec"]["matchConditions"]) == 1
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}


def test_with_scope_namespaced_the_policy_holds_in_its_namespaces_only() -> None:
    objects = rendered(rbac=TWO_NAMESPACES)
    policy, binding = (the(kind, objects) for kind in POLICIES)
    (rule,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert (rule["key"], rule["operator"], rule["values"]) == (
        "kubernetes.io/metadata.name",
        "In",
        ["team-a", "team-b"],
    )
    assert policy["metadata"]["name"] == f"{NAMESPACE}-costopt-operator-marks"


def test_there_is_a_policy_also_where_no_server_is_asked_unless_it_is_not_wanted() -> None:
    assert not {one["kind"] for one in rendered(admissionPolicy={"enabled": False})} & set(POLICIES)
    answer = helm("template", "costopt", str(CHART), "--kube-version", KUBERNETES_VERSION)
    assert answer.returncode == 0
    assert "kind: ValidatingAdmissionPolicyBinding" in answer.stdout


@pytest.mark.parametrize("name", ["it's", "back\\slash", ""])
def test_a_user_whose_name_would_end_the_text_in_the_policy_is_refused(name: str) -> None:
    answer = template(admissionPolicy={"alsoAllowed": [name]})
    assert answer.returncode != 0
    assert "alsoAllowed" in answer.stderr
