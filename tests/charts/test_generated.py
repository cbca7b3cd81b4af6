"""The chart's generated files are up to date, and the generator refuses comments that would leave a gap."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from builders.charts import CHART, ROOT, program
from charts.generator.crd_templates import crd_templates
from charts.generator.settings import read_settings
from charts.generator.values_schema import values_schema

INSTALL = ROOT / "manifests/install"


def test_what_the_generator_writes_is_what_is_there() -> None:
    helm = Path(program("helm")).parent
    checked = subprocess.run(
        [sys.executable, "-m", "charts.generator", "--check"],
        cwd=ROOT,
        env={"PATH": f"{helm}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_every_definition_is_a_template_between_its_conditions() -> None:
    crds = (ROOT / "manifests/crds/costopt.dev.yaml").read_text()
    templates = crd_templates(crds)
    assert templates.keys() == {"costoptjobs.yaml", "pricebooks.yaml"}
    for name, text in templates.items():
        assert (CHART / "templates/crds" / name).read_text() == text, "run `make generate`"


def test_braces_are_not_read_by_helm_and_texts_that_look_like_numbers_stay_texts() -> None:
    crd = {
        "apiVersion": "v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "xs.x"},
        "spec": {"names": {"plural": "xs"}, "a": "{{ b }}", "c": "1e-3"},
    }
    (text,) = crd_templates(yaml.safe_dump(crd)).values()
    assert """a: '{{ "{{" }} b }}'""" in text
    assert "c: '1e-3'" in text


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("a: 1\n", "values.yaml:1: a needs a comment above it"),
        ("b:\n  # Said.\n  c: 1\n  d: 2\n", "values.yaml:4: b.d needs a comment above it"),
        ("# Said.\na: []\n", "a needs an @schema that says what its items are"),
        ("# Said.\na: {}\n", "a needs an @schema that says what its values are"),
        ("# Said.\na: null\n", "a: null says no type; give an empty default of the right one"),
    ],
)
def test_a_setting_that_would_leave_a_gap_is_refused(values: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        values_schema(read_settings(values), {})


def test_a_comment_may_run_over_lines_and_ends_at_the_setting_above() -> None:
    first, group = read_settings("# One\n# line.\n# @schema {minimum: 1}\na: 1\nb:\n  # Two.\n  c: x\n")
    assert (first.description, first.schema, first.children) == ("One line.", {"minimum": 1}, ())
    assert [(below.path, below.description) for below in group.children] == [(("b", "c"), "Two.")]


def test_the_plain_manifests_are_complete_and_fit_into_kubectls_annotation() -> None:
    documents = [
        document
        for path in INSTALL.rglob("*.yaml")
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]
    kinds = {document["kind"] for document in documents}
    assert {"CustomResourceDefinition", "Namespace", "Deployment", "ClusterRole", "Job"} <= kinds
    for document in documents:
        assert "helm" not in yaml.safe_dump(document["metadata"]).lower()
        # `kubectl apply` without --server-side keeps the whole object, as JSON, in an annotation of at most 256 KiB.
        assert len(json.dumps(document, separators=(",", ":"))) < 256_000, document["metadata"]["name"]


def test_kubectl_puts_the_plain_manifests_together() -> None:
    built = subprocess.run(
        [program("kubectl"), "kustomize", str(INSTALL)], capture_output=True, text=True, timeout=240, check=False
    )
    assert built.returncode == 0, built.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(built.stdout)]
    assert kinds.count("CustomResourceDefinition") == 2
    assert kinds.count("Deployment") == 1
    # The Job that releases finalizers is for uninstalling only.
    assert "Job" not in kinds


def test_the_oldest_kubernetes_that_is_promised_is_the_one_whose_code_accepts_our_definitions() -> None:
    (checked,) = re.findall(
        r"^\tk8s\.io/apiextensions-apiserver v0\.(\d+)\.", (ROOT / "tests/crd_check/go.mod").read_text(), re.MULTILINE
    )
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">=1.{checked}.0-0"
    for page in (CHART / "README.md", ROOT / "docs/installing.md"):
        assert f"Kubernetes 1.{checked} or newer" in page.read_text(), page
