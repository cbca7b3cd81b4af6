"""Each row of KINDS is a whole kind of resource, and a new one is a model and a row."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.documents import plain_job, plain_price_book
from builders.toys import TOY, TOY_DOCUMENT
from costopt.cli.crd import crds_as_yaml
from costopt.render.text import to_yaml
from costopt.schema.base import API_GROUP
from costopt.schema.crd import VERSION, custom_resource_definitions
from costopt.schema.document import read_documents, read_stream
from costopt.schema.kinds import KINDS, PRICE_BOOK, Kind
from costopt.schema.reference import reference

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {"CostOptJob": plain_job(), "PriceBook": plain_price_book()}


def crd_named(name: str, crds: list[dict[str, Any]]) -> dict[str, Any]:
    (crd,) = (one for one in crds if one["metadata"]["name"] == name)
    return crd


def server_says(crdcheck: Path, documents: list[Any]) -> Any:
    question = {"crds": custom_resource_definitions(), "documents": documents, "changes": []}
    answered = subprocess.run([crdcheck], input=json.dumps(question), capture_output=True, text=True, check=True)
    return json.loads(answered.stdout)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Kind:
    """A kind that is there for one test."""
    monkeypatch.setitem(KINDS, TOY.name, TOY)
    return TOY


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: str(kind.name))
def test_what_a_row_says_is_in_the_definition_that_is_installed(kind: Kind) -> None:
    definitions = list(yaml.safe_load_all((ROOT / "manifests/crds/costopt.dev.yaml").read_text()))
    spec = crd_named(f"{kind.plural}.{API_GROUP}", definitions)["spec"]
    assert (spec["names"]["kind"], spec["names"]["plural"]) == (kind.name, kind.plural)
    assert spec["names"]["shortNames"] == [kind.short_name]
    assert spec["scope"] == ("Namespaced" if kind.namespaced else "Cluster")
    [version] = spec["versions"]
    printed = [(one["name"], one["type"], one["jsonPath"]) for one in version["additionalPrinterColumns"]]
    assert printed == [(column.name, column.type, column.path) for column in kind.columns]
    assert ("subresources" in version) == (kind.status is not None)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: str(kind.name))
def test_documents_of_each_kind_are_read(kind: Kind) -> None:
    [document], mistakes = read_documents(to_yaml([DOCUMENTS[kind.name]]), "f")
    assert (type(document.model), mistakes) == (kind.model, [])


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: str(kind.name))
def test_each_kind_and_each_status_is_in_the_reference(kind: Kind) -> None:
    page = (ROOT / "docs/reference.md").read_text()
    assert f"\n## {kind.name}\n\n### {kind.model.__name__}\n" in page
    assert (f"\n## Status of a {kind.name}\n" in page) == (kind.status is not None)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: str(kind.name))
def test_a_kind_has_a_path_for_all_and_one_for_each_and_no_other(kind: Kind) -> None:
    group = f"/apis/{API_GROUP}/{VERSION}"
    assert kind.path() == f"{group}/{kind.plural}"
    if kind.namespaced:
        assert kind.path(namespace="team") == f"{group}/namespaces/team/{kind.plural}"
        assert kind.path(namespace="team", name="a/b") == f"{group}/namespaces/team/{kind.plural}/a%2Fb"
    else:
        assert kind.path(name="a/b") == f"{group}/{kind.plural}/a%2Fb"
    with pytest.raises(ValueError, match="namespace"):
        kind.path(**({"name": "one"} if kind.namespaced else {"namespace": "team"}))


def test_no_two_kinds_share_a_name() -> None:
    for words in ([kind.plural for kind in KINDS.values()], [kind.short_name for kind in KINDS.values()]):
        assert len(set(words)) == len(words)
    assert [kind.name for kind in KINDS.values()] == list(KINDS)


def test_a_new_kind_is_read_and_named_among_ours(toy: Kind) -> None:
    stream = read_stream(to_yaml([TOY_DOCUMENT, plain_job()]), "f")
    assert [type(document.model).__name__ for document in stream.documents] == [toy.name, "CostOptJob"]
    wrong = {**TOY_DOCUMENT, "spec": {"colour": "green"}}
    [mistake] = read_stream(to_yaml([wrong]), "f").mistakes
    assert mistake.field == "spec.colour"
    [mistake] = read_stream("", "f").mistakes
    assert mistake.sentence == "is empty; it must hold a CostOptJob, a PriceBook or a Toy"


@pytest.mark.timeout(900)
def test_a_new_kind_has_a_definition_that_the_api_servers_own_code_takes(toy: Kind, crdcheck: Path) -> None:
    crd = crd_named("toys.costopt.dev", list(yaml.safe_load_all(crds_as_yaml())))
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}
    wrong = {**TOY_DOCUMENT, "spec": {"colour": "green"}}
    answer = server_says(crdcheck, [TOY_DOCUMENT, wrong])
    assert answer["crds"] == [[], [], []]
    right, [refusal] = answer["documents"]
    assert right == []
    assert "colour" in refusal


def test_a_new_kind_has_its_sections_in_the_reference(toy: Kind) -> None:
    page = reference()
    assert "`CostOptJob`, `PriceBook`, `Toy`, the job's status and the toy's status" in page
    assert "\n## Toy\n" in page
    assert "| `colour` | `red` or `blue` | required | Its colour. |" in page
    assert "\n## Status of a Toy\n" in page


def test_the_chart_writes_price_books_where_they_are_served() -> None:
    """Its script has only the standard library, so it cannot read the table."""
    script = (ROOT / "charts/costopt/files/apply_price_books.py").read_text()
    group, _, plural = PRICE_BOOK.path().rpartition("/")
    assert f'KINDS = "{group}"' in script
    assert f"{{KINDS}}/{plural}/" in script
    assert f'"kind"] == "{PRICE_BOOK.name}"' in script
