"""Every mistake is answered with its line and what would be right, and all of them in one go."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.documents import TRAIN, changed
from cases.mistakes import CHANGES, MISTAKES, ChangeCase, MistakeCase, plain_job, plain_price_book
from costopt.schema.base import refused_changes
from costopt.schema.document import read_documents, read_stream
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook


def as_yaml(*documents: object) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)


def test_a_job_and_a_price_book_are_read_from_one_file() -> None:
    documents, mistakes = read_documents(as_yaml(plain_job(), plain_price_book()), "both.yaml")
    assert mistakes == []
    assert [type(document.model) for document in documents] == [CostOptJob, PriceBook]


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.name)
def test_a_mistake_is_named_with_its_field_and_what_would_be_right(case: MistakeCase) -> None:
    documents, mistakes = read_documents(as_yaml(case.document), "wrong.yaml")
    assert documents == []
    [mistake] = mistakes
    assert mistake.field == case.field
    assert case.sentence in mistake.sentence
    assert case.advice in mistake.sentence


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.name)
def test_what_cannot_change_after_creation_is_named(case: ChangeCase) -> None:
    [[before], _], [[after], _] = (read_documents(as_yaml(document), "f") for document in (case.before, case.after))
    refused = refused_changes(type(before.model), before.model.to_plain(), after.model.to_plain())
    assert refused == ([case.sentence] if case.sentence else [])


def test_all_mistakes_of_all_documents_are_found_in_one_go() -> None:
    text = as_yaml(*[case.document for case in MISTAKES])
    _, mistakes = read_documents(text, "wrong.yaml")
    assert len(mistakes) == len(MISTAKES)


def test_a_mistake_names_the_file_and_the_line_of_the_field() -> None:
    text = """\
apiVersion: costopt.dev/v1alpha1
kind: CostOptJob
metadata:
  name: tiny
spec:
  train:
    numNodes: two
    command: [python, train.py]
    resourcesPerNode:
      requests: {cpu: 1}
"""
    _, mistakes = read_documents(text, "job.yaml")
    assert [str(mistake).split(": ")[:2] for mistake in mistakes] == [
        ["job.yaml:7", "spec.train.numNodes"],
        ["job.yaml:9", "spec.train.resourcesPerNode"],
    ]


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("", "f:1: document: is empty; it must hold a CostOptJob or a PriceBook"),
        ("# only a comment\n---\n", "f:1: document: is empty; it must hold a CostOptJob or a PriceBook"),
        ("kind: [", "f:1: document: is not YAML: expected the node content, but found '<stream end>'"),
        ("a: 1\n\tb: 2", "f:2: document: is not YAML: found character '\\t' that cannot start any token"),
        ("just text", "f:1: document: must be a mapping with apiVersion, kind, metadata and spec"),
        ("a: &a [*a]", "f:1: document: must be nested at most 64 deep"),
        (b"kind: \xff\n", "f:1: document: must be UTF-8 text; byte 6 is not"),
        ("kind: Pod\n", 'f:1: kind: must be CostOptJob or PriceBook, not "Pod"'),
        ("apiVersion: costopt.dev/v1alpha1\n", "f:1: kind: must be CostOptJob or PriceBook; it is missing"),
        ("? [a]\n: b\n", "f:1: document: must have text as keys: put a number, or what is empty, in quotes"),
    ],
)
def test_a_file_that_is_no_manifest_is_answered_with_one_sentence(source: str | bytes, answer: str) -> None:
    documents, mistakes = read_documents(source, "f")
    assert documents == []
    assert [str(mistake) for mistake in mistakes] == [answer]


def test_another_version_of_the_language_is_refused() -> None:
    _, mistakes = read_documents(as_yaml({**plain_job(), "apiVersion": "costopt.dev/v2"}), "f")
    assert [str(mistake) for mistake in mistakes] == ["f:1: apiVersion: must be costopt.dev/v1alpha1"]


def test_two_items_that_both_lack_their_name_are_not_of_the_same_name() -> None:
    steps = plain_job()["spec"]["compress"][0]["steps"]
    _, mistakes = read_documents(as_yaml(plain_job(compress=[{"steps": steps}, {"steps": steps}])), "f")
    assert [(mistake.field, mistake.sentence) for mistake in mistakes] == [
        ("spec.compress[0].name", "Required value: it is required"),
        ("spec.compress[1].name", "Required value: it is required"),
    ]


def test_a_field_given_twice_is_a_mistake_and_names_both_lines() -> None:
    text = as_yaml(plain_job()).replace("    numNodes: 2\n", "    numNodes: 2\n    numNodes: 4\n")
    _, mistakes = read_documents(text, "f")
    assert [mistake.sentence for mistake in mistakes] == ["is given twice, in lines 7 and 8; keep one"]


def test_a_small_file_that_unfolds_to_a_large_one_is_refused() -> None:
    layers = [f"l{depth}: &l{depth} [{', '.join([f'*l{depth - 1}'] * 10)}]" for depth in range(1, 9)]
    _, mistakes = read_documents("\n".join(["l0: &l0 [x]", *layers]), "bomb")
    assert "must hold at most" in mistakes[0].sentence


def test_numbers_with_an_exponent_are_numbers_as_the_api_server_reads_them() -> None:
    text = as_yaml(plain_job()).replace("totalSteps: 40", "totalSteps: 40\n      optimizer: {learningRate: 1e-3}")
    _, mistakes = read_documents(text, "f")
    assert mistakes[0].sentence.endswith('it must be text: put it in quotes, as "1e-3"')


@pytest.mark.parametrize("nodes", [10**18, 5 * 10**18])
def test_what_would_do_in_the_place_of_a_huge_number_is_a_number_that_can_be_written(nodes: int) -> None:
    _, mistakes = read_documents(as_yaml(changed(plain_job(), f"{TRAIN}.numNodes", nodes)), "wrong.yaml")
    (of_batch,) = (one.sentence for one in mistakes if "recipe.batch" in one.sentence)
    _, would_do = of_batch.split("alone would: ")
    assert would_do == "numNodes 1, 2 or 4"


@pytest.mark.parametrize("beyond", [1e30, 10**30])
def test_a_number_beyond_64_bits_is_told_as_such_and_not_reckoned_with(beyond: float) -> None:
    _, mistakes = read_documents(as_yaml(changed(plain_job(), f"{TRAIN}.numNodes", beyond)), "wrong.yaml")
    (only,) = mistakes
    assert only.field == "spec.train.numNodes"
    assert "it must be a whole number, not 1" in only.sentence


def test_an_unquoted_date_is_text_as_the_api_server_reads_it() -> None:
    text = as_yaml(plain_price_book()).replace("'2026-01-01'", "2026-01-01")
    assert "effectiveFrom: 2026-01-01" in text
    assert read_documents(text, "f")[1] == []


@settings(deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_no_text_whatever_raises(source: str | bytes) -> None:
    documents, mistakes = read_documents(source, "f")
    assert documents == []
    assert mistakes


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "name", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.data())
def test_no_value_in_any_place_of_a_job_raises(data: st.DataObject) -> None:
    job = plain_job()
    place = job["spec"]
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(_JSON)
        break
    documents, mistakes = read_documents(as_yaml(job), "f")
    assert bool(documents) != bool(mistakes)


def test_a_price_book_knows_which_resources_have_no_price_yet() -> None:
    from datetime import date

    book = PriceBook.model_validate(plain_price_book())
    assert book.resources_without_current_price(date(2025, 12, 31)) == ["cpu", "memory"]
    assert book.resources_without_current_price(date(2026, 1, 1)) == []


@pytest.mark.parametrize("kind", ["[]", "{}", "[[CostOptJob]]", "1", "true", "null", "1.5"])
def test_a_kind_that_is_no_word_is_a_mistake(kind: str) -> None:
    stream = read_stream(f"apiVersion: costopt.dev/v1alpha1\nkind: {kind}\n", "job.yaml")
    assert [mistake.field for mistake in stream.mistakes] == ["kind"]
