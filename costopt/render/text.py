"""Manifests and processes as text, for `costopt plan`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic.alias_generators import to_camel

from costopt.render.processes import Process
from costopt.schema.scalars import value_of


class _Dumper(yaml.SafeDumper):
    """Block style for multi-line texts, and no anchors: the output is for reading and applying."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 -- PyYAML calls it so
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes the texts 1e3 and y without quotes; kubectl would read a number and a boolean.
    style = "|" if "\n" in text else "'" if text[:1] in "+-.0123456789" or value_of(text) != text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(documents: Sequence[Mapping[str, Any]]) -> str:
    """The documents as one YAML stream, ready for `kubectl apply -f -`."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True, explicit_start=True)


def manifests_json(manifests: Sequence[Mapping[str, Any]]) -> str:
    """Kubernetes objects as one List in JSON, ready for `kubectl apply -f -`."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)}, indent=2) + "\n"


def processes_json(processes: Sequence[Process]) -> str:
    """Processes as one JSON mapping."""
    return json.dumps({"processes": [process_document(process) for process in processes]}, indent=2) + "\n"


def process_document(process: Process) -> dict[str, Any]:
    """A process as a plain mapping in camelCase."""
    return {to_camel(name): list(value) if isinstance(value, tuple) else value for name, value in vars(process).items()}
