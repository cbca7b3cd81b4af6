"""The strict model every document is built from, its scalar types, and rules enforced twice.

A rule that relates fields is written once, as a `Rule`: a CEL expression for the API server, a Python predicate over
the same plain data for `costopt validate`, and one sentence that both answer with.
"""

import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
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

from costopt.schema.bounds import void_bounds

API_GROUP = "costopt.dev"
API_VERSION = "costopt.dev/v1alpha1"

PlainData = Mapping[str, Any]
"""One YAML mapping as parsed: strings, whole numbers, booleans, lists and mappings."""


LIST_MAP_KEYS = "x-kubernetes-list-map-keys"


def list_map_keys(*keys: str) -> dict[str, Any]:
    """Schema extras of a list whose items are told apart, and merged by the API server, by `keys`; no two may agree."""
    return {"x-kubernetes-list-type": "map", LIST_MAP_KEYS: list(keys)}


LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
"""Schema extras of a list of texts or numbers, none of which may be there twice."""


WRITTEN_WHOLE: dict[str, Any] = {"x-kubernetes-map-type": "atomic"}
"""Schema extras of an object that one writer always writes whole. The API server then notes who wrote it once, and not
once for each of hundreds of fields: a write of a status costs it a seventh less, and the object is a fifth smaller."""


DESCRIBED_ELSEWHERE: dict[str, Any] = {"x-described-elsewhere": True}
"""Schema extras of settings that are described in another place of the CRD, whose size is bounded, or in
docs/reference.md alone: their description says where."""


CANNOT_BE_READ = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What malformed data raises in what reads it as if it were well-formed."""


def _on_any_single_document(_data: PlainData) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """A demand on several fields of one mapping, answered with the same sentence by Python and by the API server."""

    cel: str
    """The demand as a CEL expression over `self`, for `x-kubernetes-validations`."""
    message: str
    """What would be right, as one sentence without the field's path."""
    more: "More | None" = None
    """What the API server says behind `message` of this very document; see also `Strict.advice`."""
    also: Callable[[PlainData], str] | None = None
    """What `costopt validate` alone says behind `message` of this very document, for which the CRD has no room."""
    holds: Callable[[PlainData], bool] = _on_any_single_document
    """The demand over plain data with its defaults; a KeyError, TypeError or ValueError means another mistake already
    covers it."""
    allows: Callable[[PlainData, PlainData], bool] | None = None
    """For a demand on a change, whose CEL also names `oldSelf`: the same over the plain data before and after. None:
    the demand is on every document by itself."""

    def sentence(self, data: PlainData) -> str:
        """What `costopt validate` says of `data`, which breaks this rule."""
        try:
            return self.message + ("" if self.also is None else self.also(data))
        except CANNOT_BE_READ:
            return self.message


@dataclass(frozen=True)
class More:
    """Words with lists of numbers that depend on the document.

    CEL's `format` writes them. The API server bounds the cost of an expression before it has seen a document: a text
    made by `string` or `join` is endless to it, while `format` costs little, unless its result is used again.
    """

    words: str
    """With a `%s` for each list."""
    cel: str
    """A CEL expression over `self` for a list of lists of whole numbers."""


_CEL_WORDS = {
    *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"),
    *("namespace", "null", "package", "return", "true", "var", "void", "while"),
}


def cel_field(key: str) -> str:
    """The name of a field in CEL, which Kubernetes escapes where CEL has reserved it."""
    return f"__{key}__" if key in _CEL_WORDS else key


def cel_list(names: Iterable[str]) -> str:
    """The names as a list of texts in CEL."""
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


def immutable(field: str, instead: str) -> Rule:
    """A rule that `field` stays as it was created, also if that was without it."""
    return Rule(
        cel=f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        message=f"{field} cannot be changed after creation; {instead}",
        allows=lambda before, after: before.get(field) == after.get(field),
    )


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

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a bound that would not bind: TypeError."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            for bound in void_bounds(field):
                sentence = f"{cls.__name__}.{name}: {bound} is declared twice, and the looser would hold"
                raise TypeError(f"{sentence}; write Annotated[<its type>, Field({bound}=...)]")

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        if self.rules:
            data = self.to_plain()
            for rule in broken_rules(type(self), data):
                raise ValueError(rule.sentence(data))
            for duplicate in duplicates(type(self), data):
                raise ValueError(duplicate.sentence)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, next_: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The generated JSON schema with the rules as `x-kubernetes-validations`."""
        schema = next_(core_schema)
        validations = [_validation(rule) for rule in cls.rules if rule.cel]
        if validations:
            next_.resolve_ref_schema(schema)["x-kubernetes-validations"] = validations
        return schema

    @staticmethod
    def advice(data: PlainData, rule: Rule) -> str:  # noqa: ARG004
        """What `costopt validate` says behind the message of a rule, of this class or of one in it, that plain data of
        this class with its defaults breaks: values that all rules together allow, for which an expression of CEL would
        be too long, or cost too much. Empty: nothing."""
        return ""

    def to_plain(self) -> dict[str, Any]:
        """The document as plain JSON data: camelCase, unset optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _validation(rule: Rule) -> dict[str, str]:
    """A rule for the API server; `message` is for readers of the CRD if there is an expression, too."""
    told = {"rule": rule.cel, "message": rule.message}
    if rule.more is None:
        return told
    template = rule.message.replace("%", "%%") + rule.more.words
    return {**told, "messageExpression": f"'{template}'.format({rule.more.cel})"}


def broken_rules(model: type[Strict], data: PlainData) -> list[Rule]:
    """The rules of `model` that `data`, with its defaults, breaks; one that cannot be read off malformed data is passed
    over."""
    broken = []
    for rule in model.rules:
        try:
            if not rule.holds(data):
                broken.append(rule)
        except CANNOT_BE_READ:
            continue
    return broken


def refused_changes(model: type[Strict], before: PlainData, after: PlainData) -> list[str]:
    """What the API server would answer to the change of a valid document into another; nothing if it allows it."""
    refused = [rule.message for rule in model.rules if rule.allows and not rule.allows(before, after)]
    for name, field in model.model_fields.items():
        key, nested = field_key(name, field), nested_model(field.annotation)
        if nested is not None and isinstance(before.get(key), dict) and isinstance(after.get(key), dict):
            refused += refused_changes(nested, before[key], after[key])
    return refused


@dataclass(frozen=True)
class Duplicate:
    """An item of a list that is there already, or has the same keys as one before it."""

    field: str
    index: int
    value: Any
    """The item, or its keys."""

    @property
    def sentence(self) -> str:
        """The API server's own answer, and what would be right."""
        value = json.dumps(self.value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        items = f"two items of the same {', '.join(self.value)}" if isinstance(self.value, dict) else "an item twice"
        return f"Duplicate value: {value}; {self.field} must not hold {items}"


def duplicates(model: type[Strict], data: PlainData) -> Iterator[Duplicate]:
    """Items of the lists of `data`, with its defaults, that the API server would not tell apart; malformed ones are
    passed over."""
    for name, field in model.model_fields.items():
        keys, items = list_keys(field), data.get(field_key(name, field))
        if not isinstance(items, list) or not (keys or is_set(field)):
            continue
        seen: set[str] = set()
        for index, item in enumerate(items):
            if not keys:
                found = item
            elif isinstance(item, dict) and item.keys() >= set(keys):
                found = {key: item[key] for key in keys}
            else:
                continue
            if (mark := repr(found)) in seen:  # a list of ten thousand labels is looked through once
                yield Duplicate(field_key(name, field), index, found)
            seen.add(mark)


def list_keys(field: FieldInfo) -> list[str]:
    """The keys by which a list's items are told apart; none for a list where that does not matter."""
    return typing.cast(list[str], _extras(field).get(LIST_MAP_KEYS, []))


def is_set(field: FieldInfo) -> bool:
    """Whether no item of a list may be there twice."""
    return _extras(field).items() >= LIST_SET.items()


def _extras(field: FieldInfo) -> dict[str, Any]:
    """Schema extras of a field; of one that may be left out the list may have them: `Annotated[list, ...] | None`."""
    inner = [part for option in typing.get_args(field.annotation) for part in getattr(option, "__metadata__", ())]
    found: dict[str, Any] = {}
    for part in (field, *inner):
        extras = getattr(part, "json_schema_extra", None)
        found |= extras if isinstance(extras, dict) else {}
    return found


NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DECIMAL_PATTERN = r"^[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"

DecimalString = Annotated[
    str, StringConstraints(pattern=DECIMAL_PATTERN, min_length=1, max_length=32), Field(examples=["3e-4"])
]
"""A number of at least 0 written as text, so that no reader rounds it: "0.0004", "3e-4", "25.00"."""

MONEY_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,12})?$"
Money = Annotated[str, StringConstraints(pattern=MONEY_PATTERN, min_length=1, max_length=25), Field(examples=["25.00"])]
"""An amount of at least 0 written as text, at most 12 digits before and behind the point: "25.00", "0.0316"."""

CURRENCY_PATTERN = r"^[A-Z]{3}$"
Currency = Annotated[str, StringConstraints(pattern=CURRENCY_PATTERN, max_length=3)]

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=63)]
"""A DNS label: lower-case letters, digits and '-', at most 63."""

ObjectName = Annotated[str, StringConstraints(pattern=OBJECT_NAME_PATTERN, min_length=1, max_length=253)]
"""A DNS name: DNS labels joined by '.', at most 253 characters."""

SHORT_TEXT_CHARACTERS = 256
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=SHORT_TEXT_CHARACTERS)]
LongText = Annotated[str, StringConstraints(max_length=4096)]
Path = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a moment between the years 1 and 9999 in UTC") from None


Timestamp = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A moment, kept in UTC. Python takes the difference of two moments of one zone by the clocks on its walls, which is an
hour wrong over a night in which they are set."""

Figure = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$", max_length=64)]
"""A measured number written as text, so that no reader rounds it."""

Count = Annotated[int, Field(ge=0, le=10**15)]
Code = Annotated[int, Field(ge=-(10**15), le=10**15)]
"""An exit code, a rank: what may be negative, within what the API server can hold."""


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


def plain(number: Decimal) -> str:
    """The number without an exponent and without trailing zeros after the point: "12.5", "0", "100"."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
