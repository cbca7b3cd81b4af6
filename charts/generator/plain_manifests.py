"""manifests/install: what the chart renders with its defaults, for `kubectl apply -k` instead of Helm."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from costopt.render.text import to_yaml

NAMESPACE = "costopt-system"
KUBERNETES_VERSION = "1.34.0"
"""A version the chart is made for; nothing that is rendered depends on it."""


NOTICE = "# Generated from charts/costopt by `make generate`.\n"
HELM_ONLY_LABELS = ("app.kubernetes.io/managed-by", "helm.sh/chart")

NAMESPACE_OBJECT = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {
        "name": NAMESPACE,
        "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/warn": "restricted",
        },
    },
}


def find_helm(root: Path) -> str | None:
    """The helm program: on the PATH, or built for the tests of the cluster. None when there is neither."""
    cache = Path(os.environ.get("COSTOPT_CACHE") or root / ".cache")
    built = sorted(cache.glob("cluster/*/helm"), key=lambda path: path.stat().st_mtime)
    return shutil.which("helm") or (str(built[-1]) if built else None)


def plain_manifests(helm: str, chart: Path) -> dict[str, str]:
    """Path below manifests/install to text."""
    command = [helm, "template", "costopt", str(chart), "--namespace", NAMESPACE]
    command += ["--kube-version", KUBERNETES_VERSION]
    rendered = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    objects = [_without_helm(document) for document in yaml.safe_load_all(rendered) if document]
    uninstalling = [one for one in objects if _is_hook(one)]
    definitions = [one for one in objects if one["kind"] == "CustomResourceDefinition"]
    operator = [one for one in objects if one not in uninstalling and one not in definitions]
    return {
        "kustomization.yaml": _kustomization("crds", "operator"),
        "crds/kustomization.yaml": _kustomization("crds.yaml"),
        "crds/crds.yaml": _dump(definitions),
        "operator/kustomization.yaml": _kustomization("operator.yaml"),
        "operator/operator.yaml": _dump([NAMESPACE_OBJECT, *operator]),
        "release-finalizers/kustomization.yaml": _kustomization("release-finalizers.yaml"),
        "release-finalizers/release-finalizers.yaml": _dump([_without_annotations(one) for one in uninstalling]),
    }


def _is_hook(plain: dict[str, Any]) -> bool:
    return "helm.sh/hook" in plain["metadata"].get("annotations", {})


def _without_helm(plain: dict[str, Any]) -> dict[str, Any]:
    metadata = plain["metadata"]
    metadata["labels"] = {key: value for key, value in metadata["labels"].items() if key not in HELM_ONLY_LABELS}
    return _without_annotations(plain) if plain["kind"] == "CustomResourceDefinition" else plain


def _without_annotations(plain: dict[str, Any]) -> dict[str, Any]:
    return {**plain, "metadata": {key: value for key, value in plain["metadata"].items() if key != "annotations"}}


def _kustomization(*resources: str) -> str:
    plain = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(resources),
    }
    return NOTICE + to_yaml([plain])


def _dump(documents: list[dict[str, Any]]) -> str:
    return NOTICE + to_yaml(documents)
