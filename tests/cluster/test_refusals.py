"""All that `costopt validate` refuses, the API server refuses with the same sentence: the table is the same."""

import pytest

from builders.documents import ChangeCase, MistakeCase
from cases.mistakes import CHANGES, MISTAKES, plain_job, plain_price_book
from cluster.clients import Cluster
from cluster.rest import Json, Rest
from costopt.schema.kinds import KINDS


@pytest.fixture
def rest(crds: Cluster) -> Rest:
    return Rest(crds.kubeconfig)


def path(namespace: str, document: Json) -> str:
    """Where documents of its kind are."""
    kind = KINDS[document["kind"]]
    return kind.path(namespace=namespace if kind.namespaced else None)


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.name)
def test_a_mistake_is_refused_by_the_api_server_with_the_sentence_of_validate(rest: Rest, case: MistakeCase) -> None:
    query = "?dryRun=All&fieldValidation=Strict"
    answer = rest.send("POST", path("default", case.document) + query, case.document)
    assert answer.status in (400, 422), answer
    assert case.sentence in answer.message
    assert (case.server_field or case.field) in answer.message


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: f"{case.name}-{CHANGES.index(case)}")
def test_a_change_is_refused_or_not_as_validate_would(rest: Rest, namespace: str, case: ChangeCase) -> None:
    """Price books have no namespace: they are named like this one, which is new."""
    before, after = ({**document, "metadata": {"name": namespace}} for document in (case.before, case.after))
    where = path(namespace, before)
    rest.must("POST", where, before)
    stored = rest.must("GET", f"{where}/{namespace}")
    metadata = {"name": namespace, "resourceVersion": stored["metadata"]["resourceVersion"]}
    answer = rest.send("PUT", f"{where}/{namespace}", {**after, "metadata": metadata})
    if case.sentence is None:
        assert answer.ok, answer.message
    else:
        assert answer.status == 422
        assert case.sentence in answer.message


def test_what_is_valid_is_accepted(rest: Rest, namespace: str) -> None:
    query = "?dryRun=All&fieldValidation=Strict"
    for document in (plain_job(), plain_price_book()):
        document["metadata"]["name"] = namespace
        rest.must("POST", path(namespace, document) + query, document)
