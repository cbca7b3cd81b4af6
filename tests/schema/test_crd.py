"""The CRDs are valid, refuse what `costopt validate` refuses, and are what `make generate` wrote."""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cases.mistakes import CHANGES, MISTAKES, ChangeCase, plain_job, plain_price_book
from costopt.cli.crd import crds_as_yaml
from costopt.cli.generate import NOTICE
from costopt.render.text import to_yaml
from costopt.schema.crd import custom_resource_definitions
from costopt.schema.document import read_documents
from costopt.schema.lines import NotYaml, parse_yaml
from costopt.schema.rank_rules import RANK_RULES
from costopt.schema.reference import reference

ROOT = Path(__file__).resolve().parents[2]


def every_schema(schema: Any) -> list[dict[str, Any]]:
    nested = list(schema.get("properties", {}).values()) + [
        schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    ]
    return [schema, *(found for one in nested for found in every_schema(one))]


def openapi_schemas() -> list[dict[str, Any]]:
    return [
        schema
        for crd in custom_resource_definitions()
        for schema in every_schema(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    ]


def test_the_files_in_the_repository_are_what_the_models_generate() -> None:
    assert (ROOT / "manifests/crds/costopt.dev.yaml").read_text() == NOTICE + crds_as_yaml(), "run `make generate`"
    assert (ROOT / "docs/reference.md").read_text() == reference(), "run `make generate`"


def test_every_string_of_a_spec_is_bounded_and_no_number_is_a_float() -> None:
    for crd in custom_resource_definitions():
        spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for schema in every_schema(spec):
            assert schema.get("type") != "number"
            if schema.get("type") == "string":
                assert "maxLength" in schema or "enum" in schema, schema
            if schema.get("type") == "array":
                assert "maxItems" in schema, schema
            if schema.get("type") == "integer":
                assert {"minimum", "maximum"} <= schema.keys(), schema


def inner(schema: Any) -> dict[str, Any]:
    """The fields in a schema, or in the entries of a list."""
    found: dict[str, Any] = schema.get("items", schema).get("properties", {})
    return found


def is_described_by(field: Any, other: Any) -> bool:
    """Whether all that is in `field` is in `other`, too, and is described there or where that says."""
    return all(
        name in inner(other)
        and (ELSEWHERE.match(inner(other)[name].get("description", "")) or is_described_by(each, inner(other)[name]))
        and bool(inner(other)[name].get("description"))
        for name, each in inner(field).items()
    )


ELSEWHERE = re.compile(r"As (?:\w+\.)+(\w+)\.")
"""What a field says whose inner ones are described in another place."""
IN_THE_REFERENCE = re.compile(r".+: see docs/reference\.md\.")
"""What a field says that the CRD has no room to describe."""


def test_every_field_has_a_description_here_or_where_it_says() -> None:
    fields = [field for schema in openapi_schemas() for field in schema.get("properties", {}).items()]
    passed_over, described = set(), reference()

    def pass_over(field: Any) -> None:
        for each in inner(field).values():
            passed_over.add(id(each))
            pass_over(each)

    for name, field in fields:
        if (said := ELSEWHERE.match(field.get("description", ""))) is not None:
            assert said[1] == name
            same = [other for key, other in fields if key == name and other is not field]
            assert any(is_described_by(field, other) for other in same), name
            pass_over(field)
        elif IN_THE_REFERENCE.fullmatch(field.get("description", "")):
            assert all(f"\n| `{inside}` |" in described for inside in inner(field))
            pass_over(field)
    assert passed_over
    for name, field in fields:
        assert field.get("description") or name == "metadata" or id(field) in passed_over, name


def test_schemas_are_structural() -> None:
    for schema in openapi_schemas():
        assert not {"$ref", "anyOf", "oneOf", "allOf", "const", "title", "exclusiveMinimum"} & schema.keys()
        assert "type" in schema or "x-kubernetes-int-or-string" in schema or "enum" in schema


def test_a_job_has_a_status_subresource_a_short_name_and_columns_for_state_step_and_cost() -> None:
    job, _ = custom_resource_definitions()
    version = job["spec"]["versions"][0]
    assert version["subresources"] == {"status": {}}
    assert job["spec"]["names"]["shortNames"] == ["coj"]
    assert {"State", "Step", "Cost"} <= {column["name"] for column in version["additionalPrinterColumns"]}


def server_says(
    crdcheck: Path, documents: Sequence[Any] = (), changes: Sequence[ChangeCase] = ()
) -> dict[str, list[list[str]]]:
    question = {
        "crds": custom_resource_definitions(),
        "documents": documents,
        "changes": [{"before": change.before, "after": change.after} for change in changes],
    }
    answered = subprocess.run([crdcheck], input=json.dumps(question), capture_output=True, text=True, check=True)
    return json.loads(answered.stdout)  # type: ignore[no-any-return]


def core_of(server: str) -> str:
    """A sentence of the server without the name of the field before it, and without `Invalid value: "object": `, with
    which it begins whatever a rule of ours has to say."""
    if server.startswith("unknown field"):
        return server
    _, _, body = server.partition(": ")
    return body.removeprefix('Invalid value: "object": ') if "in body must be" not in body else body


def without_more(core: str) -> str:
    """A sentence of the server without the values that it names: `costopt validate` knows more of them."""
    told = [rule.message for rule in RANK_RULES if rule.more is not None and core.startswith(rule.message)]
    return told[0] if told else core


@pytest.mark.timeout(900)
def test_the_api_servers_own_code_accepts_the_crds_and_valid_documents(crdcheck: Path) -> None:
    samples = [
        document
        for path in sorted((ROOT / "manifests/samples").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    answer = server_says(crdcheck, [plain_job(), plain_price_book(), *samples])
    assert answer["crds"] == [[], []]
    assert [found for found in answer["documents"] if found] == []


@pytest.mark.timeout(900)
def test_the_api_servers_own_code_refuses_every_mistake_with_the_sentence_of_costopt_validate(crdcheck: Path) -> None:
    answer = server_says(crdcheck, [case.document for case in MISTAKES])
    for case, found in zip(MISTAKES, answer["documents"], strict=True):
        assert any(case.sentence in sentence and case.server_advice in sentence for sentence in found), (
            case.name,
            found,
        )
        _, [ours] = read_documents(yaml.safe_dump(case.document), "wrong.yaml")
        assert all(without_more(core_of(sentence)) in ours.sentence for sentence in found), (
            case.name,
            found,
            ours.sentence,
        )


@pytest.mark.timeout(900)
def test_the_api_servers_own_code_refuses_changes_of_what_cannot_change_and_no_others(crdcheck: Path) -> None:
    answer = server_says(crdcheck, changes=CHANGES)
    for case, found in zip(CHANGES, answer["changes"], strict=True):
        assert [core_of(sentence) for sentence in found] == ([case.sentence] if case.sentence else []), case.name


_SCALARS = """
y Y yes Yes YES yEs n N no No NO true True TRUE tRUE false False FALSE on On ON off Off OFF ~ null Null NULL nULL
0 -0 +0 1 +1 -1 007 010 08 09.5 0o7 0O7 0o8 0x1F 0X1f 0xG 0b101 0B101 0b2 -0x10 -0b11 +0b11 -010 1_000 0_7 1__0 1_
_1 0x_F 1:30 10:30 1:30:00 190:20:30.15 3.10 1.20 1. .5 +.5 -.5 . .. -.e3 .5_0 ._5 .5_ ._ .5__0 .5e1_0 1.5_0 1_.5 1e3
1E3 1e-3 1234e5 1.5e3 1e+3 1e 1e1_0 1e400 -1e400 1e21 1e20 123456789012345678901234567890 9223372036854775807
9223372036854775808 18446744073709551615 18446744073709551616 -9223372036854775808 -9223372036854775809
+18446744073709551615 1e-400 4.9e-324 2024-01-01 2024-1-1 2024-01-01T10:00:00Z 12:30:45 2024-13-45 = << - + 0x 0b
0o 1x 12e 1.2.3 v1 1Gi 500m .inf -.Inf .NaN +.nan
"""
SCALARS = _SCALARS.split()
WRITTEN_SCALARS = ["", '"y"', "'007'", "!!str 3.10", "!!str y", '"1:30"', "2024-01-01 10:00:00"]


def is_same(ours: object, theirs: object) -> bool:
    """Whether it is the same value of the same type; beyond 64 bits JSON has no more than a double's digits."""
    if isinstance(ours, int) and isinstance(theirs, int) and abs(ours) >= 2**63:
        return float(ours) == float(theirs)
    return repr(ours) == repr(theirs)


@pytest.mark.timeout(900)
def test_scalars_and_keys_mean_what_they_mean_to_kubectl(crdcheck: Path) -> None:
    scalars = [one for one in (*SCALARS, *WRITTEN_SCALARS) if one not in ("-", "<<")]
    texts = [f"a: {scalar}" for scalar in scalars]
    texts += [f"{scalar}: 1" for scalar in scalars if scalar and not re.search("[.e]|[0-9]{19}", scalar)]
    question = {"yaml": texts}
    answered = subprocess.run([crdcheck], input=json.dumps(question), capture_output=True, text=True, check=True)
    wrong = {}
    for text, theirs in zip(texts, json.loads(answered.stdout)["yaml"], strict=True):
        try:
            [parsed] = parse_yaml(f"x: 1\n{text}")
        except NotYaml as error:
            ours = f"error: {error}"
        else:
            del parsed.data["x"]
            ours = parsed.data
        if theirs.startswith("error"):
            if not isinstance(ours, str) and not parsed.mistakes:
                wrong[text] = (ours, theirs)
            continue
        expected = {key: value for key, value in json.loads(theirs).items() if value is not None}
        if isinstance(ours, str) or not all(map(is_same, (*ours, *ours.values()), (*expected, *expected.values()))):
            wrong[text] = (ours, theirs)
    assert wrong == {}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("text", [*SCALARS, "", "a: b", "# no", "a\nb", "'", " x "])
def test_what_plan_prints_is_read_by_kubectl_as_the_text_it_was(crdcheck: Path, text: str) -> None:
    question = {"yaml": [to_yaml([{"a": text}])]}
    answered = subprocess.run([crdcheck], input=json.dumps(question), capture_output=True, text=True, check=True)
    [theirs] = json.loads(answered.stdout)["yaml"]
    assert json.loads(theirs) == {"a": text}
