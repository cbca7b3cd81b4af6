"""Models -> CustomResourceDefinitions.

The models' JSON schema becomes a structural schema (https://kubernetes.io/docs/tasks/extend-kubernetes/
custom-resources/custom-resource-definitions/#specifying-a-structural-schema): references inlined, optional fields
without a null alternative, rules as CEL, docstrings as descriptions. Defaults stay, so that the stored object shows
what holds.
"""

from collections.abc import Mapping
from typing import Any

from costopt.schema.base import API_GROUP, DESCRIBED_ELSEWHERE, Strict
from costopt.schema.kinds import KINDS, VERSION, Kind
from costopt.schema.sentences import key_too_long

Schema = dict[str, Any]

_DROPPED = {"title", "examples", "propertyNames", "additionalProperties", "$defs", "$ref", "anyOf", "const"}


def custom_resource_definitions() -> list[Schema]:
    """The CRDs of all our kinds, as plain data."""
    return [_definition(kind) for kind in KINDS.values()]


def structural_schema(model: type[Strict]) -> Schema:
    """The structural schema of a model; a document's metadata is left to the API server."""
    generated = model.model_json_schema(by_alias=True, mode="validation")
    schema = _structural(generated, generated.get("$defs", {}))
    if "metadata" in schema.get("properties", {}):
        schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _structural(schema: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    if "x-kubernetes-int-or-string" in schema:
        return {key: value for key, value in schema.items() if key not in _DROPPED}
    base: Schema = {}
    if "$ref" in schema:
        base = _structural(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    elif "anyOf" in schema:  # optional: X or null
        (option,) = (option for option in schema["anyOf"] if option.get("type") != "null")
        base = _structural(option, definitions)
    elif "const" in schema:
        base = {"enum": [schema["const"]]}

    own = {key: value for key, value in schema.items() if key not in _DROPPED}
    own |= _rules_of_keys(schema.get("propertyNames", {}))
    if own.get("default", ...) is None:
        del own["default"]
    elif isinstance(own.get("default"), Mapping):
        own["default"] = {field: value for field, value in own["default"].items() if value is not None}
    result = {**base, **own}
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "properties" in schema:
        result["properties"] = {name: _structural(value, definitions) for name, value in schema["properties"].items()}
    if "items" in schema:
        result["items"] = _structural(schema["items"], definitions)
    if isinstance(schema.get("additionalProperties"), Mapping):
        result["additionalProperties"] = _structural(schema["additionalProperties"], definitions)
    elif schema.get("additionalProperties") is True:
        result["x-kubernetes-preserve-unknown-fields"] = True
    if result.get("type") == "integer":
        result.setdefault("format", "int64")
    return _described(result)


def _described(schema: Schema) -> Schema:
    """The same; without the descriptions in it where they stand elsewhere."""
    if not DESCRIBED_ELSEWHERE.items() <= schema.items():
        return schema
    return {"description": schema["description"], **_without_descriptions(schema)}


def _without_descriptions(schema: Schema) -> Schema:
    found = {key: value for key, value in schema.items() if key not in {"description", *DESCRIBED_ELSEWHERE}}
    if "properties" in found:
        found["properties"] = {name: _without_descriptions(value) for name, value in found["properties"].items()}
    if "items" in found:
        found["items"] = _without_descriptions(found["items"])
    return found


def _rules_of_keys(names: Mapping[str, Any]) -> Schema:
    """Bounds of a map's keys, for which a structural schema has no keyword, as rules. CEL counts characters."""
    if not_known := names.keys() - {"maxLength", "minLength", "type", "title"}:
        raise ValueError(f"no rule is known for what is demanded of keys: {', '.join(sorted(not_known))}")
    rules = []
    if most := names.get("maxLength"):
        rules.append({"rule": f"self.all(key, size(key) <= {most})", "message": key_too_long(most)})
    if least := names.get("minLength"):
        rules.append({"rule": f"self.all(key, size(key) >= {least})", "message": "it must not be empty"})
    return {"x-kubernetes-validations": rules} if rules else {}


def _definition(kind: Kind) -> Schema:
    schema = structural_schema(kind.model)
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": [
            {
                "name": column.name,
                "type": column.type,
                "jsonPath": column.path,
                **({"description": column.description} if column.description else {}),
            }
            for column in kind.columns
        ],
    }
    if kind.status is not None:
        written = {**structural_schema(kind.status.model), "description": kind.status.description}
        schema["properties"]["status"] = written
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
            },
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }
