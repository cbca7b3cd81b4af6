"""The strict model every document is built from, its scalar types, and rules enforced twice.

A rule that relates fields is written once, as a `Rule`: a CEL expression for the API server, a Python predicate over
the same plain data for `costopt validate`, and one sentence that both answer with.
"""

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

API_GROUP = "costopt.dev"
API_VERSION = "costopt.dev/v1alpha1"

PlainData = Mapping[str, Any]
"""One YAML mapping as parsed: strings, whole numbers, booleans, lists and mappings."""


ENFORCED_BY_LIST_MAP_KEYS = ""
"""In place of a rule's CEL: the API server already refuses two items of the same x-kubernetes-list-map-keys."""


def list_map_keys(*keys: str) -> dict[str, Any]:
    """Schema extras of a list whose items are told apart, and merged by the API server, by `keys`."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


@dataclass(frozen=True)
class Rule:
    """A demand on several fields of one mapping, answered with the same sentence by Python and by the API server."""

    cel: str
    """The demand as a CEL expression over `self`, for `x-kubernetes-validations`."""
    message: str
    """What would be right, as one sentence without the field's path."""
    holds: Callable[[PlainData], bool]
    """The demand over plain data; a KeyError, TypeError or ValueError means another mistake already covers it."""


class Strict(BaseModel):
    """Unknown fields are refused, nothing is coerced, nothing changes after reading; camelCase outside."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        if self.rules:
            broken = broken_rules(type(self), self.to_plain())
            if broken:
                raise ValueError(broken[0].message)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, next_: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The generated JSON schema with the rules as `x-kubernetes-validations`."""
        schema = next_(core_schema)
        validations = [{"rule": rule.cel, "message": rule.message} for rule in cls.rules if rule.cel]
        if validations:
            next_.resolve_ref_schema(schema)["x-kubernetes-validations"] = validations
        return schema

    def to_plain(self) -> dict[str, Any]:
        """The document as plain JSON data: camelCase, unset optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def broken_rules(model: type[Strict], data: PlainData) -> list[Rule]:
    """The rules of `model` that `data` breaks; a rule that cannot be read off malformed data is passed over."""
    broken = []
    for rule in model.rules:
        try:
            if not rule.holds(data):
                broken.append(rule)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
            continue
    return broken


NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME_PATTERN = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"
DECIMAL_PATTERN = r"^[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"

DecimalString = Annotated[
    str, StringConstraints(pattern=DECIMAL_PATTERN, min_length=1, max_length=32), Field(examples=["3e-4"])
]
"""A number of at least 0 written as text, so that no reader rounds it: "0.0004", "3e-4", "25.00"."""

MONEY_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,12})?$"
Money = Annotated[str, StringConstraints(pattern=MONEY_PATTERN, min_length=1, max_length=25), Field(examples=["25.00"])]
"""An amount of at least 0 written as text, at most 12 digits before and behind the point: "25.00", "0.0316"."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=63)]
"""A DNS label: lower-case letters, digits and '-', at most 63."""

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
LongText = Annotated[str, StringConstraints(max_length=4096)]
Path = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Timestamp = AwareDatetime
Count = Annotated[int, Field(ge=0, le=10**15)]


def nested_model(annotation: Any) -> type[Strict] | None:
    """The model inside an annotation such as `list[Variant]` or `Budget | None`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    return next(filter(None, map(nested_model, typing.get_args(annotation))), None)


def field_key(name: str, field: FieldInfo) -> str:
    """The name of a model's field in a document."""
    return field.alias or name


def decimal(text: str) -> Decimal:
    """The exact value of a `DecimalString`."""
    return Decimal(text)
