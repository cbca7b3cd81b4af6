"""Every bound that the schema declares binds, at every depth of a field's type: in Python, and in the CRD."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError, create_model

from cases.mistakes import plain_job
from costopt.schema.base import Name, Strict, field_key, nested_model
from costopt.schema.bounds import TIGHTEST, Step, bounded_values
from costopt.schema.crd import structural_schema
from costopt.schema.document import read_documents
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook
from costopt.schema.replica import ReplicaSettings, TerminationMessage
from costopt.schema.sentences import PATTERN_SENTENCES
from costopt.schema.status import JobStatus
from costopt.schema.usage import Usage

Json = dict[str, Any]

ROOTS = (CostOptJob, PriceBook, JobStatus, Usage, ReplicaSettings, TerminationMessage)
KEYWORDS = {
    "max_length": {"string": "maxLength", "array": "maxItems", "object": "maxProperties"},
    "min_length": {"string": "minLength", "array": "minItems", "object": "minProperties"},
    "ge": {"integer": "minimum", "number": "minimum"},
    "le": {"integer": "maximum", "number": "maximum"},
    "gt": {"integer": "exclusiveMinimum", "number": "exclusiveMinimum"},
    "lt": {"integer": "exclusiveMaximum", "number": "exclusiveMaximum"},
    "multiple_of": {"integer": "multipleOf", "number": "multipleOf"},
    "pattern": {"string": "pattern"},
}
REFUSALS = {
    "string_too_long", "string_too_short", "too_long", "too_short", "greater_than_equal", "less_than_equal",
    "greater_than", "less_than", "multiple_of", "string_pattern_mismatch",
}  # fmt: skip
INTO: dict[Step, str] = {"items": "items", "keys": "propertyNames", "values": "additionalProperties"}


def all_models(*roots: type[Strict]) -> list[type[Strict]]:
    found: set[type[Strict]] = set()
    left = [*roots, *Strict.__subclasses__()]
    while left:
        model = left.pop()
        if model not in found and model.__module__.startswith("costopt"):
            found.add(model)
            left.extend(model.__subclasses__())
    return sorted(found, key=called)


def called(model: type[Strict]) -> str:
    """Two rooms may each have a model of one name; which comes first must not hang on where in memory they lie."""
    return f"{model.__module__.removeprefix('costopt.schema.')}.{model.__name__}"


def bounds() -> Iterator[Any]:
    for model in all_models(*ROOTS):
        for name, field in model.model_fields.items():
            for found in bounded_values(field):
                where = ".".join([called(model), name, *found.path])
                for bound, values in found.declared.items():
                    tightest = TIGHTEST[bound](values)
                    yield pytest.param(model, name, found.path, bound, tightest, id=f"{where}-{bound}")


def resolved(schema: Json, whole: Json) -> Json:
    """A part of a model's JSON schema without references, and without the null that makes it optional."""
    while "$ref" in schema or "anyOf" in schema:
        if "$ref" in schema:
            schema = whole["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        else:
            (schema,) = (option for option in schema["anyOf"] if option.get("type") != "null")
    return schema


def part(model: type[Strict], name: str, path: tuple[Step, ...]) -> Json:
    whole = model.model_json_schema()
    schema = resolved(whole["properties"][field_key(name, model.model_fields[name])], whole)
    for step in path:
        schema = resolved(schema[INTO[step]], whole)
    return {"type": "string", **schema} if path[-1:] == ("keys",) else schema


OF_NO_PATTERN = ("\x00", "..", "A b")
"""Each pattern refuses one of these at least."""
OF_SOME_PATTERN = ("a", "en", "{a}")
"""One of these at least is an entry of each list of texts."""


def beyond(schema: Json, bound: str, value: Any) -> list[Any]:
    """Values just out of bounds, of which one at least is to be refused; none where there are none."""
    match schema["type"], bound:
        case "integer", "ge":
            return [value - 1]
        case "integer", "le" | "multiple_of":
            return [value + 1]
        case "integer", "gt" | "lt":
            return [value]
        case "string", "pattern":
            return list(OF_NO_PATTERN)
        case "string", "max_length" | "min_length":
            return ["a" * length for length in around(bound, value)]
        case "array", "max_length" | "min_length":
            # Of texts pydantic counts entries only if each is right by itself.
            entries = OF_SOME_PATTERN if schema["items"].get("type") == "string" else (None,)
            return [[entry] * length for entry in entries for length in around(bound, value)]
        case "object", "max_length" | "min_length":
            # pydantic counts entries only if each is right by itself.
            values = schema["additionalProperties"]
            entry = "1" if values is not True and values.get("type") == "string" else 1
            return [{f"key-{index}": entry for index in range(length)} for length in around(bound, value)]
    raise AssertionError(f"no test knows what is out of {bound} of {schema}")


def around(bound: str, value: int) -> list[int]:
    return [value + 1] if bound == "max_length" else [value - 1] if value else []


def put(wrong: Any, path: tuple[Step, ...]) -> tuple[Any, list[Any]]:
    """A field's value with `wrong` at the path, and how pydantic calls the place."""
    if not path:
        return wrong, []
    match path[0]:
        case "keys":
            return {wrong: None}, [wrong, "[key]"]
        case "values":
            inner, place = put(wrong, path[1:])
            return {"key": inner}, ["key", *place]
        case "items":
            inner, place = put(wrong, path[1:])
            return [inner], [0, *place]


@pytest.mark.parametrize(("model", "name", "path", "bound", "value"), list(bounds()))
def test_what_is_just_out_of_a_declared_bound_is_refused_and_the_schema_says_so(
    model: type[Strict], name: str, path: tuple[Step, ...], bound: str, value: Any
) -> None:
    schema = part(model, name, path)
    assert schema[KEYWORDS[bound][schema["type"]]] == value
    values = beyond(schema, bound, value)
    assert not values or any(is_refused(model, field_key(name, model.model_fields[name]), path, one) for one in values)


def is_refused(model: type[Strict], key: str, path: tuple[Step, ...], wrong: Any) -> bool:
    """Whether pydantic refuses `wrong` at that path of a field for a bound, whatever else it misses in the model."""
    given, place = put(wrong, path)
    try:
        model.model_validate({key: given})
    except ValidationError as refused:
        return any(error["type"] in REFUSALS and list(error["loc"]) == [key, *place] for error in refused.errors())
    return False


def of_keys(schema: Json) -> Json:
    """What the rules of a map demand of its keys, in the words that a schema has for texts."""
    rules = [re.fullmatch(r"self\.all\(key, size\(key\) ([<>]=) (\d+)\)", one["rule"]) for one in validations(schema)]
    said = {"maxLength" if rule[1] == "<=" else "minLength": int(rule[2]) for rule in rules if rule is not None}
    return {"type": "string", **said}


def validations(schema: Json) -> list[Json]:
    rules: list[Json] = schema.get("x-kubernetes-validations", [])
    return rules


def in_the_crd(model: type[Strict], schema: Json, where: str) -> Iterator[tuple[str, Json, str, Any]]:
    """Every bound below a model, beside the part of its structural schema that must have it."""
    for name, field in model.model_fields.items():
        below = schema.get("properties", {}).get(field_key(name, field))
        if below is None:
            continue  # of a document's own metadata, which is the API server's
        for found in bounded_values(field):
            at = below
            for step in found.path:
                at = of_keys(at) if step == "keys" else at[INTO[step]]
            for bound, values in found.declared.items():
                place = ".".join([where, name, *found.path])
                yield f"{place}-{bound}", at, KEYWORDS[bound][at["type"]], TIGHTEST[bound](values)
        if (inner := nested_model(field.annotation)) is not None:
            at = below
            while "properties" not in at and ("items" in at or "additionalProperties" in at):
                at = at.get("items") or at["additionalProperties"]
            yield from in_the_crd(inner, at, f"{where}.{name}")


@pytest.mark.parametrize("root", [CostOptJob, PriceBook, JobStatus])
def test_the_crd_says_every_bound(root: type[Strict]) -> None:
    found = list(in_the_crd(root, structural_schema(root), root.__name__))
    assert len(found) > 5
    assert [place for place, schema, keyword, value in found if schema.get(keyword) != value] == []


NARROW = Annotated[str, Field(max_length=3)]
VOID: dict[str, tuple[Any, Any]] = {
    "max_length": (Name, Field(max_length=30)),
    "max_length of what may be left out": (NARROW | None, Field(max_length=30)),
    "items: max_length": (list[Annotated[NARROW, Field(max_length=30)]], Field()),
    "items: values: max_length": (list[dict[str, Annotated[NARROW, Field(max_length=30)]]] | None, Field()),
    "keys: max_length": (dict[Annotated[NARROW, Field(max_length=30)], int], Field()),
    "values: ge": (dict[str, Annotated[Annotated[int, Field(ge=2)], Field(ge=1)]], Field()),
    "pattern": (Annotated[Name, Field(pattern=".*")], Field()),
}
"""By the bound that would be void: a field's type, and what stands beside it."""


@pytest.mark.parametrize("what", VOID)
def test_a_bound_beside_a_type_that_has_its_own_cannot_be_written_at_any_depth(what: str) -> None:
    sentence = rf"Looser.name: {what.partition(' of ')[0]} is declared twice.*Annotated\[<its type>"
    with pytest.raises(TypeError, match=sentence):
        create_model("Looser", __base__=Strict, name=VOID[what])


def test_a_tighter_bound_around_a_type_that_has_its_own_holds() -> None:
    around = Annotated[Name, Field(max_length=3)]
    fields: Any = {"name": (around, ...), "names": (list[around] | None, None)}
    tighter = create_model("Tighter", __base__=Strict, **fields)
    assert tighter(name="abc", names=["abc"])
    for wrong in ({"name": "abcd"}, {"name": "abc", "names": ["abcd"]}):
        with pytest.raises(ValidationError):
            tighter(**wrong)


@pytest.mark.parametrize(("length", "mistakes"), [(30, 0), (31, 1), (40, 1), (63, 1)])
def test_a_variants_name_has_at_most_thirty_characters(length: int, mistakes: int) -> None:
    document = plain_job()
    document["spec"]["compress"][0]["name"] = "v" * length
    _, found = read_documents(json.dumps(document), "job.json")
    assert len(found) == mistakes
    assert all("30" in str(mistake) for mistake in found)


def test_every_pattern_that_a_user_can_break_is_told_in_words() -> None:
    found = [structural_schema(root)["properties"]["spec"] for root in (CostOptJob, PriceBook)]
    patterns = set()
    while found:
        part = found.pop()
        if isinstance(part.get("pattern"), str):
            patterns.add(part["pattern"])
        found += [each for each in part.values() if isinstance(each, dict)]
    assert len(patterns) > 15
    assert patterns <= PATTERN_SENTENCES.keys()
