"""The chart's templates of the CustomResourceDefinitions: those of manifests/crds between two conditions."""

from typing import Any

import yaml

from costopt.render.text import to_yaml

HEAD = """\
{{- /* Generated from manifests/crds by `make generate`. */}}
{{- if .Values.crds.enabled }}
"""
METADATA = """\
metadata:
  name: %s
  labels:
    {{- include "costopt.labels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""
TAIL = "{{- end }}\n"


def crd_templates(crds: str) -> dict[str, str]:
    """File name to text, one file per definition. Kept on uninstall unless told otherwise."""
    return {f"{crd['spec']['names']['plural']}.yaml": _template(crd) for crd in yaml.safe_load_all(crds)}


def _template(crd: dict[str, Any]) -> str:
    name: str = crd["metadata"]["name"]
    if crd["metadata"].keys() != {"name"}:
        raise ValueError(f"metadata of {name} would be lost: only its name is taken over")
    # Through plain data, not as text: what Helm reads must be quoted for YAML 1.2, where 1e-3 is a number.
    head, spec = ({key: crd[key] for key in keys} for keys in (("apiVersion", "kind"), ("spec",)))
    return HEAD + _plain_text(head) + METADATA % name + _plain_text(spec) + TAIL


def _plain_text(part: dict[str, Any]) -> str:
    """YAML that Helm passes on as it is, whatever braces are in it."""
    return to_yaml([part]).removeprefix("---\n").replace("{{", '{{ "{{" }}')
