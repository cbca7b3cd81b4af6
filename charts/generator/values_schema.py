"""values.schema.json from the settings: their types come from their defaults, the rest from `@schema`."""

import json
from typing import Any

from charts.generator.settings import Plain, Setting

PRICE_BOOKS = "$priceBooks"
"""In `@schema`: a mapping from names to the spec of a PriceBook, as its CustomResourceDefinition has it."""

OBJECT_NAME = "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


def values_schema(settings: tuple[Setting, ...], price_book_spec: dict[str, Plain]) -> str:
    """The file's text. A key that no setting has is refused, except `global`, which Helm adds to a subchart."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Generated from values.yaml by `make generate`; edit the comments there.",
        **_object(settings, price_book_spec),
    }
    schema["properties"]["global"] = {"type": "object", "description": "Helm's own; nothing here reads it."}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _object(settings: tuple[Setting, ...], price_book_spec: dict[str, Plain]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {setting.path[-1]: _one(setting, price_book_spec) for setting in settings},
    }


def _one(setting: Setting, price_book_spec: dict[str, Plain]) -> dict[str, Any]:
    if setting.children:
        return _object(setting.children, price_book_spec)
    schema = {"type": _type(setting), "description": setting.description, **setting.schema}
    if schema.pop(PRICE_BOOKS, False):
        schema |= {"propertyNames": {"pattern": OBJECT_NAME}, "additionalProperties": _json_schema(price_book_spec)}
    schema["default"] = setting.default
    if schema["type"] == "object" and "additionalProperties" not in schema:
        raise ValueError(f"{'.'.join(setting.path)} needs an @schema that says what its values are")
    if schema["type"] == "array" and "items" not in schema:
        raise ValueError(f"{'.'.join(setting.path)} needs an @schema that says what its items are")
    return schema


def _type(setting: Setting) -> str:
    types = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    if type(setting.default) not in types:
        raise ValueError(f"{'.'.join(setting.path)}: null says no type; give an empty default of the right one")
    return types[type(setting.default)]


def _json_schema(openapi: dict[str, Plain]) -> dict[str, Any]:
    """A CustomResourceDefinition's schema as JSON Schema: without the server's extensions, unknown keys refused."""
    schema = {key: value for key, value in openapi.items() if not key.startswith("x-kubernetes-") and key != "format"}
    if "properties" in schema:
        schema["properties"] = {name: _json_schema(field) for name, field in schema["properties"].items()}
        schema["additionalProperties"] = False
    if "items" in schema:
        schema["items"] = _json_schema(schema["items"])
    return schema
