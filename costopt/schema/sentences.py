"""One mistake -> the sentence that the API server answers it with, and what would be right.

A field's bounds, type, pattern and choices are refused by the API server in words of its own. `costopt validate` says
the same words, so that a mistake has one name wherever it is found, and adds what they leave open: the meaning of a
pattern, the fields there are.

References: the words are those of k8s.io/kube-openapi/pkg/validation/errors and of
k8s.io/apimachinery/pkg/util/validation/field.
"""

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

from costopt.schema import (
    augmentations,
    base,
    compression,
    epochs,
    foreign_models,
    pods,
    prices,
    records,
    resources,
    volumes,
)
from costopt.schema.base import Strict, field_key, nested_model
from costopt.schema.data import DataSettings, SourceSettings
from costopt.schema.earlier_words import RENAMED
from costopt.schema.lines import FieldPath, field_name

_NAME_SENTENCE = "must be lower-case letters, digits and '-', at most 63, starting and ending with a letter or digit"
_EPOCHS_SENTENCE = 'must be a number of epochs such as 3 or "1.5"'
_QUANTITY_SENTENCE = 'must be a Kubernetes quantity of at least 0, such as 2, "500m" or "16Gi"'

PATTERN_SENTENCES = {
    base.DECIMAL_PATTERN: 'must be a number of at least 0 in quotes, such as "0.001", "3e-4" or "25.00"',
    base.MONEY_PATTERN: 'must be an amount of at least 0 in quotes, such as "25.00" or "0.0316"',
    base.NAME_PATTERN: _NAME_SENTENCE,
    base.OBJECT_NAME_PATTERN: "must be DNS labels (lower-case letters, digits and '-') joined by '.', at most 253",
    base.CURRENCY_PATTERN: 'must be a currency code of three capital letters, such as "USD" or "EUR"',
    prices.DATE_PATTERN: 'must be a day of the calendar in quotes, such as "2026-01-31"',
    foreign_models.FUNCTION_PATTERN: "must be a module and a function in it, such as package.module:function",
    foreign_models.HUB_PATTERN: "must be the id of a model at the hub, such as org/name or org/name@revision",
    pods.LABEL_VALUE_PATTERN: "must be at most 63 letters, digits, '-', '_' and '.', between letters or digits",
    pods.VARIABLE_PATTERN: "must be letters, digits and '_', and not start with a digit",
    volumes.MOUNT_PATH_PATTERN: "must be an absolute path without '.', '..', ':' or a slash at its end",
    volumes.SUB_PATH_PATTERN: "must be a relative path without '.', '..', ':' or a slash at its end",
    pods.DATA_KEY_PATTERN: "must be letters, digits, '-', '_' and '.'",
    resources.QUANTITY_PATTERN: _QUANTITY_SENTENCE,
    epochs.EPOCHS_PATTERN: _EPOCHS_SENTENCE,
    augmentations.PHRASE_PATTERN: "must be a phrase on one line, without spaces around it",
    augmentations.WORD_PATTERN: "must be one word, without spaces and punctuation",
    compression.ENTRY_POINT_PATTERN: "must be the name of an entry point: letters, digits, '-', '_' and '.', between "
    "letters or digits",
    pods.VARIABLE_VALUE_PATTERN: "must have no zero byte",
    records.TEMPLATE_PATTERN: "must hold the name of at least one field in braces, such as {question}, taken as it is, "
    "without ! and :, and {{ or }} for a brace",
}

_JSON_TYPES = {
    "int_type": ("integer", "must be a whole number"),
    "int_parsing": ("integer", "must be a whole number"),
    "int_from_float": ("integer", "must be a whole number"),
    "bool_type": ("boolean", "must be true or false"),
    "string_type": ("string", "must be text"),
    "list_type": ("array", "must be a list"),
    "dict_type": ("object", "must be a mapping of fields"),
    "model_type": ("object", "must be a mapping of fields"),
    "model_attributes_type": ("object", "must be a mapping of fields"),
    resources.NOT_A_QUANTITY: ("integer,string", _QUANTITY_SENTENCE),
    epochs.NOT_EPOCHS: ("integer,string", _EPOCHS_SENTENCE),
}


def key_too_long(most: int) -> str:
    """Of a map's key with more than `most` characters, also in the rules of the CRD."""
    return f"Too long: may not be more than {most} characters"


def sentence_of(error: ErrorDetails, path: FieldPath, model: type[Strict], source: str | None = None) -> str:
    """The server's answer and what would be right, for one of pydantic's errors at `path` of a document of `model`.

    `source` is the scalar as it is written, where that is without quotes and not text.
    """
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    match kind:
        case "missing":
            return "Required value: it is required"
        case "extra_forbidden":
            return f'unknown field "{field_name(path)}"; {_what_is_known(path, model)}'
        case "json_invalid":
            return f"is not JSON: {context['error']}"
        case "literal_error" if isinstance(value, str):
            choices = ", ".join(f'"{choice}"' for choice in re.findall("'([^']*)'", str(context["expected"])))
            return f"Unsupported value: {_shown(value)}: supported values: {choices}"
        case "literal_error":
            return _wrong_type(path, "string", value, "must be text", source)
        case "string_too_long":
            most = context["max_length"]
            if error["loc"][-1:] == ("[key]",):
                return key_too_long(most)
            # The server says bytes, but counts characters.
            return f"Too long: may not be more than {most} bytes; it must have at most {most} characters"
        case "too_long":
            return f"Too many: {len(value or ())}: must have at most {context['max_length']} items"
    if kind in _JSON_TYPES:
        wanted, right = _JSON_TYPES[kind]
        return _wrong_type(path, wanted, value, right, source)
    return _out_of_bounds(kind, path, value, context) or str(error["msg"]).lower()


def _wrong_type(path: FieldPath, wanted: str, value: Any, right: str, source: str | None) -> str:
    found = _json_type(value)
    if wanted == "string" and (source is not None or found in {"integer", "number"}):
        right = f'must be text: put it in quotes, as "{value if source is None else source}"'
    else:
        right += f", not {_shown(value) if source is None else source}"
    return f'Invalid value: "{found}": {field_name(path)} in body must be of type {wanted}: "{found}"; it {right}'


def _out_of_bounds(kind: str, path: FieldPath, value: Any, context: Mapping[str, Any]) -> str | None:
    shown, right = _shown(value), None
    match kind:
        case "greater_than_equal":
            bound = f"greater than or equal to {context['ge']}"
        case "less_than_equal":
            bound = f"less than or equal to {context['le']}"
        case "string_too_short":
            bound, right = f"at least {context['min_length']} chars long", "it must not be empty"
        case "too_short":
            server = f"{field_name(path)} in body should have at least {context['min_length']} items"
            return f"Invalid value: {len(value or ())}: {server}"
        case "string_pattern_mismatch":
            right = "it " + PATTERN_SENTENCES[context["pattern"]] if context["pattern"] in PATTERN_SENTENCES else None
            server = f"Invalid value: {shown}: {field_name(path)} in body should match '{context['pattern']}'"
            return "; ".join(filter(None, (server, right)))
        case _:
            return None
    return "; ".join(filter(None, (f"Invalid value: {shown}: {field_name(path)} in body should be {bound}", right)))


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names: dict[type, str] = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _what_is_known(path: FieldPath, model: type[Strict]) -> str:
    owner = _model_at(path[:-1], model)
    if owner is prices.Price and path[-1] == "currency":
        return "a book has one currency, spec.currency; write a second PriceBook for another"
    if owner is None:
        return "there is no such field here"
    if renamed := RENAMED.get((owner.__name__, str(path[-1]))):
        return renamed
    fields = [field_key(name, field) for name, field in owner.model_fields.items()]
    if owner is SourceSettings and path[-1] in {field_key(*each) for each in DataSettings.model_fields.items()}:
        return "it does nothing here, where no sample is trained on: leave it out"
    close = difflib.get_close_matches(str(path[-1]), fields, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}the fields of {owner.__name__} are {', '.join(sorted(fields))}"


def _model_at(path: FieldPath, model: type[Strict]) -> type[Strict] | None:
    current: type[Strict] | None = model
    for key in path:
        if isinstance(key, int):
            continue
        by_alias = {field_key(name, field): field for name, field in current.model_fields.items()} if current else {}
        current = nested_model(by_alias[key].annotation) if key in by_alias else None
    return current
