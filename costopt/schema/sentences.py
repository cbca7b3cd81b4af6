"""One mistake -> the sentence that says what would be right."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

from costopt.schema import base, prices
from costopt.schema.base import Strict, field_key, nested_model
from costopt.schema.lines import FieldPath

_NAME_SENTENCE = "must be lower-case letters, digits and '-', at most 63, starting and ending with a letter or digit"

_PATTERN_SENTENCES = {
    base.DECIMAL_PATTERN: 'must be a number of at least 0 in quotes, such as "0.001", "3e-4" or "25.00"',
    base.MONEY_PATTERN: 'must be an amount of at least 0 in quotes, such as "25.00" or "0.0316"',
    base.NAME_PATTERN: _NAME_SENTENCE,
    base.OBJECT_NAME_PATTERN: "must be lower-case letters, digits, '-' and '.', at most 253",
    prices.CURRENCY_PATTERN: 'must be a currency code of three capital letters, such as "USD" or "EUR"',
    prices.DATE_PATTERN: 'must be a day of the calendar in quotes, such as "2026-01-31"',
}

_QUANTITY_SENTENCE = 'must be a Kubernetes quantity of at least 0, such as 2, "500m" or "16Gi"'


def sentence_of(error: ErrorDetails, path: FieldPath, model: type[Strict]) -> str:
    """What would be right, for one of pydantic's errors at `path` of a document of type `model`."""
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return _unknown_field(path, model)
    if kind == "json_invalid":
        return f"is not JSON: {context['error']}"
    if path[-2:-1] in {("requests",), ("limits",)}:
        return _QUANTITY_SENTENCE
    sentence = _of_type(kind, context) or str(error["msg"]).lower()
    if kind == "string_pattern_mismatch":
        return _PATTERN_SENTENCES.get(context["pattern"], f"must match {context['pattern']}") + f", not {_shown(value)}"
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return f'must be text: put it in quotes, as "{value}"'
    if kind in {"int_type", "int_parsing", "bool_type", "string_type", "literal_error", "list_type"}:
        return f"{sentence}, not {_shown(value)}"
    if kind in {"greater_than_equal", "less_than_equal"}:
        return f"{sentence}, not {_shown(value)}"
    return sentence


def _of_type(kind: str, context: Mapping[str, Any]) -> str | None:
    match kind:
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "bool_type":
            return "must be true or false"
        case "string_type":
            return "must be text"
        case "list_type":
            return "must be a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "must be a mapping of fields"
        case "literal_error":
            return "must be " + _one_of(str(context["expected"]))
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must be at most {context['max_length']} characters"
        case "too_short":
            return f"must hold at least {context['min_length']} item{'s' if context['min_length'] != 1 else ''}"
        case "too_long":
            return f"must hold at most {context['max_length']} items"
    return None


def _one_of(expected: str) -> str:
    """pydantic's `'A', 'B' or 'C'` in our words."""
    return ("one of " if " or " in expected else "") + expected.replace("'", "")


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown_field(path: FieldPath, model: type[Strict]) -> str:
    owner = _model_at(path[:-1], model)
    if owner is prices.Price and path[-1] == "currency":
        return "is not a field of a price: a book has one currency, spec.currency; write a second PriceBook for another"
    if owner is None:
        return "is not a field here"
    fields = [field_key(name, field) for name, field in owner.model_fields.items()]
    close = difflib.get_close_matches(str(path[-1]), fields, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"is not a field of {owner.__name__}; {meant}the fields are {', '.join(sorted(fields))}"


def _model_at(path: FieldPath, model: type[Strict]) -> type[Strict] | None:
    current: type[Strict] | None = model
    for key in path:
        if isinstance(key, int):
            continue
        by_alias = {field_key(name, field): field for name, field in current.model_fields.items()} if current else {}
        current = nested_model(by_alias[key].annotation) if key in by_alias else None
    return current
