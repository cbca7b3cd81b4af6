"""Whatever `costopt validate` refuses, the API server refuses with the same sentence: the table is the same."""

import pytest

from builders_documents import ChangeCase, MistakeCase
from builders_schema import CHANGES, MISTAKES, plain_job, plain_price_book
from cluster.clients import Cluster
from cluster.rest import Json, Rest

KINDS = {"CostOptJob": "costoptjobs", "PriceBook": "pricebooks"}


@pytest.fixture
def rest(crds: Cluster) -> Rest:
    return Rest(crds.kubeconfig)


def path(namespace: str, document: Json) -> str:
    """Where documents of its kind are created."""
    where = f"namespaces/{namespace}/" if document["kind"] == "CostOptJob" else ""
    return f"/apis/costopt.dev/v1alpha1/{where}{KINDS[document['kind']]}"


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.name)
def test_a_mistake_is_refused_by_the_api_server_with_the_sentence_of_validate(
    rest: Rest, shared_namespace: str, case: MistakeCase
) -> None:
    query = "?dryRun=All&fieldValidation=Strict"
    answer = rest.send("POST", path(shared_namespace, case.document) + query, case.document)
    assert answer.status in (400, 422), answer
    assert case.sentence in answer.message
    assert case.field.replace("[", ".").split(".")[-1].rstrip("]") in answer.message
