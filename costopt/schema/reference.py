"""Models -> docs/reference.md: every field with its type, default and docstring."""

import json
import typing
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from costopt.schema.base import Strict, field_key, is_set, list_keys, nested_model
from costopt.schema.crd import Schema, structural_schema
from costopt.schema.kinds import KINDS

_HEAD = """# Reference

Every field of {kinds}, as `costopt validate` and the API server check them.
Generated from the models in `costopt/schema` by `make generate`; edit the docstrings there.
"""


def reference() -> str:
    """The whole page, as Markdown."""
    kinds = KINDS.values()
    statuses = [(kind, kind.status) for kind in kinds if kind.status is not None]
    *some, last = [*(f"`{kind.name}`" for kind in kinds), *(f"the {kind.noun}'s status" for kind, _ in statuses)]
    parts = [_HEAD.format(kinds=f"{', '.join(some)} and {last}")]
    chapters = [(kind.name, kind.model) for kind in kinds]
    chapters += [(f"Status of a {kind.name}", status.model) for kind, status in statuses]
    seen: set[type[Strict]] = set()
    for title, model in chapters:
        parts.append(f"## {title}\n")
        parts += [_section(one) for one in _models(model, seen)]
    return "\n".join(parts)


def _models(model: type[Strict], seen: set[type[Strict]]) -> Iterator[type[Strict]]:
    """`model`, then the models below it in the order of their fields, each once."""
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        nested = nested_model(field.annotation)
        if nested is not None:
            yield from _models(nested, seen)


def _section(model: type[Strict]) -> str:
    lines = [f"### {model.__name__}\n", f"{_one_line(model.__doc__)}\n"]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    properties = structural_schema(model)["properties"]
    for name, field in model.model_fields.items():
        key = field_key(name, field)
        cells = (f"`{key}`", _type(field, properties[key]), _default(field), _one_line(field.description))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    rules = [f"- {rule.message}" for rule in model.rules]
    rules += [
        f"- {field_key(name, field)} must not hold two items of the same {', '.join(list_keys(field))}"
        for name, field in model.model_fields.items()
        if list_keys(field)
    ]
    rules += [
        f"- {field_key(name, field)} must not hold an item twice"
        for name, field in model.model_fields.items()
        if is_set(field)
    ]
    if rules:
        lines += ["", "Rules:", "", *rules]
    return "\n".join(lines) + "\n"


def _type(field: FieldInfo, schema: Schema) -> str:
    nested = nested_model(field.annotation)
    if nested is not None:
        several = typing.get_origin(field.annotation) is list or schema.get("type") == "array"
        link = f"[{nested.__name__}](#{nested.__name__.lower()})"
        return f"list of {link}" if several else link
    match schema.get("type"):
        case "array":
            return f"list of {_scalar(schema['items'])}"
        case "object":
            values = schema.get("additionalProperties")
            return f"map of {_scalar(values)}" if values else "object"
    return _scalar(schema)


def _scalar(schema: Schema) -> str:
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    words = (("minimum", "at least"), ("maximum", "at most"))
    bounds = [f"{word} {schema[key]:,}" for key, word in words if key in schema]
    name = {"integer": "whole number", "boolean": "true or false", "string": "text"}.get(schema.get("type", ""), "any")
    if schema.get("format") == "date-time":
        name = "time"
    return name + (f", {', '.join(bounds)}" if bounds else "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(value, default=str)}`"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
