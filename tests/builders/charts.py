"""The real helm and kubectl on the project's chart, and their output as plain data."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/costopt"
NAMESPACE = "costopt-system"

KUBERNETES_VERSION = "1.34.0"
"""Rendering asks no server; a helm built from its Go module does not know its Kubernetes version."""

PRICE_BOOK: dict[str, Any] = {
    "currency": "USD",
    "prices": [
        {
            "resource": "cpu",
            "unit": "vCPU-Hours",
            "listUnitPrice": "0.0400",
            "effectiveFrom": "2026-01-01",
            "source": "a price list",
        }
    ],
}

BOOKS = {"default": PRICE_BOOK}
TWO_NAMESPACES = {"scope": "Namespaced", "namespaces": ["team-a", "team-b"]}

WITHOUT_CLUSTER_RIGHTS: dict[str, Any] = {
    "crds": {"enabled": False},
    "rbac": {**TWO_NAMESPACES, "readNodes": False, "userRoles": False},
    "admissionPolicy": {"enabled": False},
}
"""Scope Namespaced, nothing that belongs to the whole cluster."""

EVERY_SETTING: dict[str, Any] = {
    "replicas": 3,
    "image": {"repository": "images.example/costopt-operator", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "serviceAccount": {"name": "mine", "annotations": {"a": "b"}},
    "priceBooks": BOOKS,
    "log": {"level": "DEBUG", "format": "text"},
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]},
    "admissionPolicy": {"alsoAllowed": ["system:serviceaccount:kueue-system:kueue-controller-manager"]},
    "podLabels": {"team": "platform"},
    "podAnnotations": {"note": "x"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "important",
}

MODES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "price books": {"priceBooks": BOOKS},
    "the release's own namespace": {"rbac": {"scope": "Namespaced", "namespaces": [NAMESPACE]}, "priceBooks": BOOKS},
    "a team without rights on the cluster": WITHOUT_CLUSTER_RIGHTS,
    "two namespaces": {"rbac": TWO_NAMESPACES},
    "two namespaces without nodes": {"rbac": {**TWO_NAMESPACES, "readNodes": False, "userRoles": False}},
    "one replica without election": {"replicas": 1, "leaderElection": {"enabled": False}},
    "nothing that can be left out": {
        "crds": {"enabled": False},
        "rbac": {"create": False, "userRoles": False},
        "serviceAccount": {"create": False, "name": "existing"},
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "admissionPolicy": {"enabled": False},
        "uninstall": {"releaseFinalizers": False},
    },
    "every setting": EVERY_SETTING,
    "every setting, two namespaces": {**EVERY_SETTING, "rbac": TWO_NAMESPACES},
}


def program(name: str) -> str:
    """Path of helm or kubectl: from the folder COSTOPT_TEST_BINARIES, the cache, or PATH; else the test is skipped."""
    folder = os.environ.get("COSTOPT_TEST_BINARIES")
    cache = Path(os.environ.get("COSTOPT_CACHE") or ROOT / ".cache")
    built = sorted(cache.glob(f"cluster/*/{name}"), key=lambda path: path.stat().st_mtime)
    candidates = [*([Path(folder) / name] if folder else []), *reversed(built)]
    found = next((str(path) for path in candidates if os.access(path, os.X_OK)), shutil.which(name))
    if found is None:
        pytest.skip(f"needs {name}, in COSTOPT_TEST_BINARIES, below .cache/cluster or on the PATH")
    return found


def helm(*arguments: str, values: dict[str, Any] | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run helm to its end; it gets `values` as a file."""
    command = [program("helm"), *arguments]
    if values is not None:
        command += ["--values", "-"]
    return subprocess.run(
        command,
        input=json.dumps(values or {}),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def template(*arguments: str, **values: Any) -> subprocess.CompletedProcess[str]:
    """`helm template` of the chart with these values, for a server with the kind of the admission policy."""
    server = ["--kube-version", KUBERNETES_VERSION]
    return helm("template", "costopt", str(CHART), "--namespace", NAMESPACE, *server, *arguments, values=values)


def rendered(*arguments: str, **values: Any) -> list[dict[str, Any]]:
    """All objects that the chart renders with these values."""
    answer = template(*arguments, **values)
    assert answer.returncode == 0, answer.stderr
    return [document for document in yaml.safe_load_all(answer.stdout) if document]


def objects_of(kind: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [one for one in objects if one["kind"] == kind]


def the(kind: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The only one of its kind."""
    (only,) = objects_of(kind, objects)
    return only


def hooks_of(plain: dict[str, Any]) -> set[str]:
    """The hooks in which Helm creates this object; empty for an ordinary one."""
    annotation = plain["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    return set(filter(None, annotation.split(",")))


def pod_specs(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods of all Deployments and Jobs."""
    return [one["spec"]["template"]["spec"] for one in objects if one["kind"] in {"Deployment", "Job"}]
