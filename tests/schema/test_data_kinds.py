"""Models are trained on data of their kind: the rules follow from what each class of settings declares."""

import itertools
import json
import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from costopt.schema.base import Strict, broken_rules
from costopt.schema.crd import VERSION, structural_schema
from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import IMAGES, TEXT, GivesSamples, ReadsSamples, data_fits_model, only_for_text
from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Recipe
from costopt.schema.unions import tagged_union


def test_the_rules_of_today_are_those_that_documents_have_always_had() -> None:
    fits = data_fits_model(ModelSettings, DataSettings)
    assert fits.cel == "(self.model.type == 'ConvNet') == (self.data.type == 'Images')"
    assert (
        fits.message == "model.type ConvNet needs data.type Images, and DecoderLM needs Text or PythonStandardLibrary"
    )
    changes = only_for_text("transforms", "changes of text", DataSettings)
    assert changes.cel == "self.data.type != 'Images' || !has(self.data.transforms)"
    assert changes.message == "data.transforms are changes of text and must not be set if data.type is Images"
    assert {fits.message, changes.message} <= {rule.message for rule in Recipe.rules}


class Reader(ReadsSamples):
    reads = TEXT


class Viewer(ReadsSamples):
    reads = IMAGES


class Forecaster(ReadsSamples):
    reads = "series"


class Book(GivesSamples):
    gives = TEXT


class Album(GivesSamples):
    gives = IMAGES


class Log(GivesSamples):
    gives = "series"


@tagged_union
class Models(Strict):
    type: Literal["Reader", "Viewer", "Forecaster", "Writer"]
    reader: Reader | None = None
    viewer: Viewer | None = None
    forecaster: Forecaster | None = None
    writer: Reader | None = None


@tagged_union
class Sources(Strict):
    type: Literal["Book", "Paper", "Letter", "Album", "Film", "Log"]
    book: Book | None = None
    paper: Book | None = None
    letter: Book | None = None
    album: Album | None = None
    film: Album | None = None
    log: Log | None = None
    transforms: int | None = None


class Training(Strict):
    model: Models
    data: Sources

    rules = (data_fits_model(Models, Sources), only_for_text("transforms", "changes of text", Sources))


FITS, CHANGES = (rule.message for rule in Training.rules)
ALLOWED = {
    ("Reader", "Book"), ("Reader", "Paper"), ("Reader", "Letter"),
    ("Writer", "Book"), ("Writer", "Paper"), ("Writer", "Letter"),
    ("Viewer", "Album"), ("Viewer", "Film"),
    ("Forecaster", "Log"),
}  # fmt: skip


def every_pair() -> Iterator[tuple[dict[str, Any], set[str]]]:
    """Each pair of words, without and with changes of text, and the sentences that it should be refused with."""
    models, sources = (typing.get_args(union.model_fields["type"].annotation) for union in (Models, Sources))
    for model, source, changed in itertools.product(models, sources, (False, True)):
        data = {"model": {"type": model}, "data": {"type": source, **({"transforms": 1} if changed else {})}}
        refused = {FITS} if (model, source) not in ALLOWED else set()
        yield data, refused | ({CHANGES} if changed and source in ("Album", "Film", "Log") else set())


def test_more_kinds_make_longer_sentences() -> None:
    assert FITS == (
        "model.type Forecaster needs data.type Log, Viewer needs Album or Film, and Reader or Writer needs Book or "
        "Paper or Letter"
    )
    assert CHANGES.endswith("must not be set if data.type is Album or Film or Log")


def test_a_model_takes_data_of_its_kind_and_no_other() -> None:
    for data, refused in every_pair():
        assert {rule.message for rule in broken_rules(Training, data)} == refused, data


def test_the_api_servers_own_code_takes_the_same(crdcheck: Path) -> None:
    schema = {"type": "object", "properties": {"spec": structural_schema(Training)}}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "trainings.test.dev"},
        "spec": {
            "group": "test.dev",
            "names": {"kind": "Training", "listKind": "TrainingList", "plural": "trainings", "singular": "training"},
            "scope": "Namespaced",
            "versions": [{"name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    pairs = list(every_pair())
    documents = [
        {"apiVersion": f"test.dev/{VERSION}", "kind": "Training", "metadata": {"name": "a"}, "spec": data}
        for data, _ in pairs
    ]
    question = {"crds": [crd], "documents": documents, "changes": []}
    answered = subprocess.run([crdcheck], input=json.dumps(question), capture_output=True, text=True, check=True)
    answer = json.loads(answered.stdout)
    assert [found for found in answer["crds"] if found] == []
    for (data, refused), said in zip(pairs, answer["documents"], strict=True):
        assert len(said) == len(refused), (data, said)
        assert all(any(message in sentence for sentence in said) for message in refused), (data, said)


def test_a_kind_that_only_one_side_knows_is_a_mistake_where_it_is_declared() -> None:
    @tagged_union
    class Fewer(Strict):
        type: Literal["Reader", "Viewer"]
        reader: Reader | None = None
        viewer: Viewer | None = None

    with pytest.raises(TypeError, match="given by a source and read by a model: series"):
        data_fits_model(Fewer, Sources)


def test_settings_that_declare_no_kind_are_a_mistake_where_they_are_declared() -> None:
    class Mute(Strict):
        pass

    @tagged_union
    class Undeclared(Strict):
        type: Literal["Mute"]
        mute: Mute | None = None

    with pytest.raises(TypeError, match="Undeclared: the settings of Mute must declare a kind of samples"):
        data_fits_model(Undeclared, Sources)
