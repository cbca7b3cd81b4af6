"""Wrong values are refused by the real helm with a sentence that names the setting; and every default is valid."""

import json
import re
from typing import Any

import pytest
import yaml

from builders.charts import CHART, PRICE_BOOK, ROOT, rendered, template

PRICE = PRICE_BOOK["prices"][0]

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"replica": 3}, "additional properties 'replica' not allowed"),
    "an unknown nested key": (
        {"rbac": {"clusterWide": True}},
        "'/rbac': additional properties 'clusterWide' not allowed",
    ),
    "text for a number": ({"replicas": "2"}, "'/replicas': got string, want integer"),
    "no replica": ({"replicas": 0}, "'/replicas': minimum: got 0, want 1"),
    "an unknown scope": (
        {"rbac": {"scope": "namespaced"}},
        "'/rbac/scope': value must be one of 'Cluster', 'Namespaced'",
    ),
    "text for a switch": ({"crds": {"keep": "no"}}, "'/crds/keep': got string, want boolean"),
    "an empty repository": ({"image": {"repository": ""}}, "'/image/repository': minLength: got 0, want 1"),
    "one namespace as text": ({"rbac": {"namespaces": "team-a"}}, "'/rbac/namespaces': got string, want array"),
    "an unknown log level": ({"log": {"level": "LOUD"}}, "'/log/level': value must be one of 'DEBUG'"),
    "a price as a number": (
        {"priceBooks": {"default": {**PRICE_BOOK, "prices": [{**PRICE, "listUnitPrice": 0.04}]}}},
        "'/priceBooks/default/prices/0/listUnitPrice': got number, want string",
    ),
    "a price without its source": (
        {"priceBooks": {"default": {**PRICE_BOOK, "prices": [{k: v for k, v in PRICE.items() if k != "source"}]}}},
        "'/priceBooks/default/prices/0': missing property 'source'",
    ),
    "a book without a currency": ({"priceBooks": {"default": {"prices": [PRICE]}}}, "missing property 'currency'"),
    "a book with a capital in its name": ({"priceBooks": {"Default": PRICE_BOOK}}, "'Default'"),
    "namespaces without their scope": (
        {"rbac": {"namespaces": ["team-a"]}},
        "rbac.namespaces needs rbac.scope=Namespaced; with scope Cluster the operator runs the jobs of all namespaces",
    ),
    "a scope without its namespaces": (
        {"rbac": {"scope": "Namespaced"}},
        "rbac.scope=Namespaced needs rbac.namespaces, whose jobs are run; rather not the operator's own",
    ),
    "a monitor of nothing": (
        {"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}},
        "metrics.serviceMonitor.enabled needs metrics.enabled=true: else there is nothing to read",
    ),
    "two replicas that do not elect one": (
        {"leaderElection": {"enabled": False}},
        "leaderElection.enabled=false needs replicas=1: of several pods only the elected one may act",
    ),
    "a monitor that nobody lets in": (
        {"metrics": {"serviceMonitor": {"enabled": True}}},
        "metrics.serviceMonitor.enabled needs networkPolicy.metricsFrom, who may read metrics; empty means nobody",
    ),
    "no account": (
        {"serviceAccount": {"create": False}},
        "serviceAccount.create=false needs serviceAccount.name, the account the operator is to use",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_values_are_refused_with_a_sentence_that_names_the_setting(mistake: str) -> None:
    values, sentence = WRONG[mistake]
    answer = template(**values)
    assert answer.returncode != 0
    assert sentence in answer.stderr


def test_the_schema_knows_every_setting_and_its_default() -> None:
    def check(values: dict[str, Any], schema: dict[str, Any]) -> None:
        assert values.keys() == schema["properties"].keys() - {"global"}
        assert schema["additionalProperties"] is False
        for key, value in values.items():
            below = schema["properties"][key]
            if "properties" in below and "description" not in below:
                check(value, below)
            else:
                assert below["default"] == value
                assert below["description"]

    check(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads((CHART / "values.schema.json").read_text()))


def test_the_price_book_in_the_comment_is_valid() -> None:
    lines = (CHART / "values.yaml").read_text().partition("priceBooks: {}\n")[2].partition("\n\n")[0].splitlines()
    books = yaml.safe_load("\n".join(line.removeprefix("#") for line in lines))
    assert books.keys() == {"default"}
    assert rendered(priceBooks=books)


def test_as_a_part_of_another_chart_helms_own_global_values_are_allowed() -> None:
    assert rendered(**{"global": {"anything": 1}})


def test_every_setting_that_the_instructions_name_exists() -> None:
    page = (ROOT / "docs/installing.md").read_text()
    settings = json.loads((CHART / "values.schema.json").read_text())
    groups = "|".join(settings["properties"])
    named = set(re.findall(rf"[`= ']((?:{groups})\.[A-Za-z.]+)", page))
    assert {"image.repository", "rbac.scope", "crds.keep"} <= named
    for path in named:
        found = settings
        for key in path.split("."):
            assert key in found["properties"], path
            found = found["properties"][key]
