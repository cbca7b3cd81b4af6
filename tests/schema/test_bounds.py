"""Every bound that the schema declares binds: in Python, and in the CRD."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from builders_schema import plain_job
from costopt.schema.base import Name, Strict
from costopt.schema.document import read_documents
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook
from costopt.schema.replica import ReplicaSettings, TerminationMessage
from costopt.schema.status import JobStatus
from costopt.schema.usage import Usage

ROOTS = (CostOptJob, PriceBook, JobStatus, Usage, ReplicaSettings, TerminationMessage)
KEYWORDS = {
    "max_length": {"string": "maxLength", "array": "maxItems", "object": "maxProperties"},
    "min_length": {"string": "minLength", "array": "minItems", "object": "minProperties"},
    "ge": {"integer": "minimum", "number": "minimum"},
    "le": {"integer": "maximum", "number": "maximum"},
}
TIGHTEST = {"max_length": min, "le": min, "min_length": max, "ge": max}


def all_models(*roots: type[Strict]) -> set[type[Strict]]:
    found: set[type[Strict]] = set()
    left = [*roots, *Strict.__subclasses__()]
    while left:
        model = left.pop()
        if model not in found and model.__module__.startswith("costopt"):
            found.add(model)
            left.extend(model.__subclasses__())
    return found


def declared(field: FieldInfo) -> dict[str, int]:
    """The tightest of each bound that is declared, wherever it is."""
    values = {bound: [getattr(item, bound, None) for item in field.metadata] for bound in TIGHTEST}
    known = {bound: [value for value in found if value is not None] for bound, found in values.items()}
    return {bound: TIGHTEST[bound](found) for bound, found in known.items() if found}


def bounds() -> Iterator[Any]:
    for model in sorted(all_models(*ROOTS), key=lambda model: model.__name__):
        for name, field in model.model_fields.items():
            for bound, value in declared(field).items():
                yield pytest.param(model, name, bound, value, id=f"{model.__name__}.{name}-{bound}")


def beyond(kind: str, bound: str, value: int) -> Any:
    """What is just out of bounds; None where nothing is."""
    match kind, bound:
        case "integer", "ge":
            return value - 1
        case "integer", "le":
            return value + 1
        case "string", "max_length":
            return "a" * (value + 1)
        case "string", "min_length":
            return "a" * (value - 1) if value else None
        case "array", "max_length":
            return [None] * (value + 1)
        case "array", "min_length":
            return [None] * (value - 1) if value else None
    return None


@pytest.mark.parametrize(("model", "name", "bound", "value"), list(bounds()))
def test_what_is_just_out_of_a_declared_bound_is_refused_and_the_schema_says_so(
    model: type[Strict], name: str, bound: str, value: int
) -> None:
    field = model.model_fields[name]
    schema = model.model_json_schema()["properties"][field.alias or name]
    if "type" not in schema:
        pytest.skip("of no one type: its own pattern bounds it")
    assert schema[KEYWORDS[bound][schema["type"]]] == value
    wrong = beyond(schema["type"], bound, value)
    if wrong is not None:
        with pytest.raises(ValidationError) as refused:
            model.model_validate({field.alias or name: wrong})
        where = field.alias or name
        kinds = {item["type"] for item in refused.value.errors() if item["loc"] == (where,)}
        assert kinds & {
            "string_too_long", "string_too_short", "too_long", "too_short", "greater_than_equal", "less_than_equal",
        }  # fmt: skip


def test_a_bound_beside_a_type_that_has_its_own_cannot_be_written() -> None:
    with pytest.raises(TypeError, match=r"Looser.name: max_length is declared twice.*Annotated\[<its type>"):

        class Looser(Strict):
            name: Name = Field(max_length=30)

    class Tighter(Strict):
        name: Annotated[Name, Field(max_length=3)]

    with pytest.raises(ValidationError):
        Tighter(name="abcd")


@pytest.mark.parametrize(("length", "mistakes"), [(30, 0), (31, 1), (40, 1), (63, 1)])
def test_a_variants_name_has_at_most_thirty_characters(length: int, mistakes: int) -> None:
    document = plain_job()
    document["spec"]["compress"][0]["name"] = "v" * length
    _, found = read_documents(json.dumps(document), "job.json")
    assert len(found) == mistakes
    assert all("30" in str(mistake) for mistake in found)
