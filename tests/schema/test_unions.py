"""Of a union exactly the fields that should be set may be set, whoever checks it; a new one is a word and a field."""

import itertools
import json
import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import Field, ValidationError

from builders.documents import plain_job, plain_price_book
from costopt.schema.base import Strict, broken_rules, field_key
from costopt.schema.compression import Prune, Quantize, Step
from costopt.schema.crd import VERSION, structural_schema
from costopt.schema.defaults import with_defaults
from costopt.schema.job import Train
from costopt.schema.kinds import KINDS
from costopt.schema.models import ConvNet, DecoderLM, ModelSettings
from costopt.schema.selection import Order
from costopt.schema.unions import TAG, UNIONS, key_of_word, one_of, settings_named, tagged_union

ROOT = Path(__file__).resolve().parents[2]
OURS = [union for union in UNIONS if union.__module__.startswith("costopt.")]
TRAIN = {"resourcesPerNode": {"requests": {"cpu": 1, "memory": "1Gi"}}}


def smallest(schema: dict[str, Any]) -> Any:
    """A small value that the schema allows, of the required fields only."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: smallest(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [smallest(schema["items"])] * schema.get("minItems", 0)
        case "integer":
            return schema["minimum"]
    return "a" * schema.get("minLength", 1)


def choices(union: type[Strict]) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each choice of `type` and of fields that are set, and whether it should be allowed."""
    properties = structural_schema(union)["properties"]
    members = UNIONS[union]
    others = TRAIN if union is Train else smallest({"type": "object", **structural_schema(union), "title": ""})
    words = typing.get_args(union.model_fields[TAG].annotation) if members[0].word else ("",)
    for word, given in itertools.product(words, itertools.product((False, True), repeat=len(members))):
        chosen = [member for member, is_given in zip(members, given, strict=True) if is_given]
        data = {**others, **({TAG: word} if word else {})}
        data |= {member.key: smallest(properties[member.key]) for member in chosen}
        if not word:
            yield data, len(chosen) == 1
            continue
        named = [member for member in members if member.word == word]
        has_defaults = all(member.settings is not None and is_valid(member.settings, {}) for member in named)
        yield data, chosen == named or (not chosen and has_defaults)


def is_valid(model: type[Strict], data: dict[str, Any]) -> bool:
    try:
        model.model_validate_json(json.dumps(data))
    except ValueError:
        return False
    return True


def sentence_of(union: type[Strict]) -> str:
    ours = ("exactly one of ", "exactly the settings ", "only the settings ")
    [rule] = [rule for rule in union.rules if rule.message.startswith(ours)]
    return rule.message


@pytest.mark.parametrize("union", OURS, ids=lambda union: union.__name__)
def test_a_union_allows_what_it_should_and_nothing_else(union: type[Strict]) -> None:
    answers = set()
    for data, allowed in choices(union):
        said = [rule.message for rule in broken_rules(union, with_defaults(union, data))]
        assert (sentence_of(union) not in said) == allowed, data
        assert allowed or not is_valid(union, data), data
        answers.add(allowed)
    words = set(typing.get_args(union.model_fields[TAG].annotation)) if UNIONS[union][0].word else {""}
    assert answers == ({True} if len(words) == 1 and "" not in words else {True, False})


@pytest.mark.timeout(900)
def test_the_api_servers_own_code_allows_the_same_of_every_union(crdcheck: Path) -> None:
    cases = [(union, data, allowed) for union in OURS for data, allowed in choices(union)]
    documents = [
        {"apiVersion": f"test.dev/{VERSION}", "kind": union.__name__, "metadata": {"name": "a"}, "spec": data}
        for union, data, _ in cases
    ]
    question = {"crds": [crd_of(union) for union in OURS], "documents": documents, "changes": []}
    answered = subprocess.run([crdcheck], input=json.dumps(question), capture_output=True, text=True, check=True)
    answer = json.loads(answered.stdout)
    assert [found for found in answer["crds"] if found] == []
    for (union, data, allowed), said in zip(cases, answer["documents"], strict=True):
        assert any(sentence_of(union) in sentence for sentence in said) == (not allowed), (union, data, said)


def crd_of(union: type[Strict]) -> dict[str, Any]:
    kind, plural = union.__name__, union.__name__.lower() + "s"
    schema = {"type": "object", "properties": {"spec": structural_schema(union)}}
    version = {"name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.test.dev"},
        "spec": {
            "group": "test.dev",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def test_every_class_whose_type_names_settings_is_a_tagged_union() -> None:
    def below(model: type[Strict]) -> Iterator[type[Strict]]:
        yield model
        for one in model.__subclasses__():
            yield from below(one)

    found = []
    for model in below(Strict):
        names = {field_key(name, field) for name, field in model.model_fields.items()}
        words = typing.get_args(model.model_fields[TAG].annotation) if TAG in names else ()
        if any(isinstance(word, str) and key_of_word(word) in names for word in words):
            found.append(model)
    assert len(found) >= 3
    assert [model.__name__ for model in found if model not in UNIONS] == []


def test_a_word_of_type_names_the_field_of_the_same_name() -> None:
    words = ("DecoderLM", "PythonStandardLibrary", "AdamW", "SGD", "Text")
    assert list(map(key_of_word, words)) == ["decoderLM", "pythonStandardLibrary", "adamW", "sgd", "text"]


def test_a_union_whose_type_names_no_settings_or_has_all_of_them_says_which_stand_there() -> None:
    with pytest.raises(ValidationError, match="type Shuffled has no settings of its own, but curriculum, which is for"):
        Order.model_validate({"type": "Shuffled", "curriculum": {"steps": 1}})
    both = {"type": "Curriculum", "curriculum": {"steps": 1}, "lengthBucketed": {}}
    with pytest.raises(ValidationError, match="type Curriculum needs curriculum, but lengthBucketed, which is for Len"):
        Order.model_validate(both)


def test_a_new_member_is_a_word_and_a_field_of_that_name() -> None:
    class Distill(Strict):
        temperature: int

    @tagged_union
    class LongerStep(Strict):
        type: Literal["Quantize", "Prune", "Distill"]
        quantize: Quantize | None = None
        prune: Prune | None = None
        distill: Distill | None = None

    named = "quantize for Quantize, prune for Prune, distill for Distill"
    assert sentence_of(LongerStep) == f"exactly the settings that `type` names must be set ({named})"
    step = LongerStep.model_validate({"type": "Distill", "distill": {"temperature": 2}})
    assert settings_named(step) == Distill(temperature=2)
    for wrong in ({"type": "Distill"}, {"type": "Prune", "distill": {"temperature": 2}}):
        with pytest.raises(ValueError, match="exactly the settings"):
            LongerStep.model_validate(wrong)


def test_settings_that_no_word_names_are_refused_where_they_are_declared() -> None:
    class Misspelt(Strict):
        type: Literal["Quantize", "Prun"]
        quantize: Quantize | None = None
        prune: Prune | None = None

    with pytest.raises(TypeError, match="Misspelt: no word of `type` names prune"):
        tagged_union(Misspelt)

    class Untyped(Strict):
        prune: Prune | None = None

    with pytest.raises(TypeError, match="Untyped: a tagged union needs a field `type`"):
        tagged_union(Untyped)


def test_exactly_one_of_the_fields_that_are_named_must_be_set() -> None:
    @one_of("not both", here="a place", down_there="another")
    class Place(Strict):
        note: str | None = None
        here: int | None = None
        down_there: int | None = Field(default=None, alias="downBelow")

    assert sentence_of(Place) == "exactly one of here (a place) and downBelow (another) must be set; not both"
    assert is_valid(Place, {"downBelow": 1, "note": "a"})
    assert not is_valid(Place, {"note": "a"})
    assert not is_valid(Place, {"downBelow": 1, "here": 1})


def test_the_settings_that_are_named_are_found_with_their_defaults() -> None:
    net = ConvNet(num_stages=3)
    assert settings_named(ModelSettings(type="DecoderLM")) == DecoderLM()
    assert settings_named(ModelSettings(type="ConvNet", conv_net=net)) == net
    assert settings_named(Step(type="Prune", prune=Prune(structure="Structured", percent=5))) is not None


@pytest.mark.parametrize("path", sorted((ROOT / "manifests/samples").glob("*.yaml")), ids=lambda path: path.name)
def test_plain_data_with_its_defaults_is_what_the_model_says_of_it(path: Path) -> None:
    documents = [*yaml.safe_load_all(path.read_text()), plain_job(), plain_price_book()]
    for document in documents:
        model = KINDS[document["kind"]].model
        assert with_defaults(model, document) == model.model_validate_json(json.dumps(document)).to_plain()
