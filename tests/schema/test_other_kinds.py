"""Objects of other kinds in the same file are left alone; what is meant as ours is not."""

import pytest

from cases.mistakes import plain_job
from costopt.render.text import to_yaml
from costopt.schema.document import read_stream

OTHERS = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}},
    {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {"x": ["y"]}},
    {"apiVersion": "batch/v1", "kind": "Job"},
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": "odd"},
]


@pytest.mark.parametrize("other", OTHERS)
def test_an_object_of_another_kind_is_left_alone_with_a_line(other: dict[str, object]) -> None:
    stream = read_stream(to_yaml([other, plain_job()]), "f")
    assert len(stream.documents) == 1
    assert stream.mistakes == []
    [note] = stream.left_alone
    assert str(note).startswith(f"f:2: {other['kind']}")
    assert str(note).endswith("is neither a CostOptJob nor a PriceBook, and is left alone")


def test_what_another_kind_holds_is_not_judged() -> None:
    other = 'apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: !!binary "YQ==", a: 1}\n---\n'
    stream = read_stream(other + to_yaml([plain_job()]), "f")
    assert (len(stream.documents), stream.mistakes, len(stream.left_alone)) == (1, [], 1)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "CostOptjob"},
        {"kind": "PriceBok", "apiVersion": "costopt.dev/v1"},
        {"apiVersion": "v1"},
        {"kind": 7},
        {"apiVersion": None, "kind": "Job"},
    ],
)
def test_what_is_meant_as_ours_is_a_mistake(change: dict[str, object]) -> None:
    plain = {key: value for key, value in {**plain_job(), **change}.items() if value is not None}
    stream = read_stream(to_yaml([plain]), "f")
    assert (stream.documents, stream.left_alone) == ([], [])
    assert len(stream.mistakes) >= 1


def test_a_file_without_anything_of_ours_is_a_mistake() -> None:
    stream = read_stream(to_yaml(OTHERS), "f")
    assert [str(mistake) for mistake in stream.mistakes] == [
        "f:1: document: must hold a CostOptJob or a PriceBook, and holds none of these"
    ]


@pytest.mark.parametrize(
    ("field", "written", "says"),
    [
        ("image", "3.10", 'put it in quotes, as "3.10"'),
        ("image", "1_000", 'put it in quotes, as "1_000"'),
        ("image", "007", 'put it in quotes, as "007"'),
        ("image", "on", 'put it in quotes, as "on"'),
        ("image", ".inf", 'put it in quotes, as ".inf"'),
        ("image", "!!binary YQ==", "must have no tag (tag:yaml.org,2002:binary)"),
        ("image", "!!timestamp 2024-01-01", "must have no tag (tag:yaml.org,2002:timestamp)"),
        ("numNodes", "1:30", 'it must be a whole number, not "1:30"'),
        ("numNodes", "1.50", "it must be a whole number, not 1.50"),
        ("numNodes", "yes", "it must be a whole number, not yes"),
    ],
)
def test_a_hint_quotes_what_is_written(field: str, written: str, says: str) -> None:
    plain = plain_job()
    plain["spec"]["train"][field] = "HERE"
    stream = read_stream(to_yaml([plain]).replace("HERE", written), "f")
    [mistake] = {mistake.sentence: mistake for mistake in stream.mistakes}.values()
    assert says in mistake.sentence
    assert mistake.field == f"spec.train.{field}"
