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
from costopt.schema.data_kinds import (
    IMAGES,
    LABELLED_TEXT,
    MASKED_TEXT,
    TEXT,
    BySetting,
    GivesSamples,
    ReadsSamples,
    data_fits_model,
    kind_read,
    only_for_text,
)
from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Recipe
from costopt.schema.unions import tagged_union


def test_the_rules_of_today_name_every_word() -> None:
    fits = data_fits_model(ModelSettings, DataSettings)
    imported = "(self.model.type == 'Import' && self.model.?__import__.?data.orValue('Text') == '{}')"
    assert fits.cel == (
        "((self.model.type == 'Encoder' && self.model.?encoder.?task.orValue('MaskedLM') == 'Classification') || "
        "(self.model.type == 'HuggingFace' && self.model.?huggingFace.?task.orValue('CausalLM') == "
        "'SequenceClassification') || "
        f"{imported.format('LabelledText')}) == (self.data.type == 'LabelledText') && "
        "(self.model.type == 'MLP') == (self.data.type == 'Table') && "
        f"(self.model.type in ['ConvNet', 'ResNet'] || {imported.format('Images')}) == "
        "(self.data.type in ['Images', 'ImageFolder'])"
    )
    assert fits.message == (
        "model.type Encoder with task Classification or HuggingFace with task SequenceClassification or Import with "
        "data LabelledText needs data.type LabelledText, MLP needs Table, ConvNet or ResNet or Import with data Images "
        "needs Images or ImageFolder, and DecoderLM or LSTM or Encoder with task MaskedLM or HuggingFace with task "
        "CausalLM or HuggingFace with task MaskedLM or Import with data Text or Import with data MaskedText needs Text "
        "or PythonStandardLibrary or Records or TokenShards or Mixture"
    )
    changes = only_for_text("transforms", "changes of text", DataSettings)
    assert changes.cel == "!(self.data.type in ['Images', 'ImageFolder', 'Table']) || !has(self.data.transforms)"
    assert changes.message == (
        "data.transforms are changes of text and must not be set if data.type is Images or ImageFolder or Table"
    )
    assert {fits.message, changes.message} <= {rule.message for rule in Recipe.rules}


class Reader(ReadsSamples):
    reads = TEXT


class Viewer(ReadsSamples):
    reads = IMAGES


class Forecaster(ReadsSamples):
    reads = "series"


class Student(ReadsSamples):
    """Reads what its task says, with a task of its own if none is given."""

    reads = BySetting("its_task", {"Read": TEXT, "Guess": MASKED_TEXT, "Sort": LABELLED_TEXT})
    its_task: Literal["Read", "Guess", "Sort"] = "Sort"


class Servant(ReadsSamples):
    """Has to be told."""

    reads = BySetting("task", {"Sort": LABELLED_TEXT, "Look": IMAGES})
    task: Literal["Sort", "Look"]


class Book(GivesSamples):
    gives = TEXT


class Album(GivesSamples):
    gives = IMAGES


class Archive(GivesSamples):
    gives = LABELLED_TEXT


class Log(GivesSamples):
    gives = "series"


@tagged_union
class Models(Strict):
    type: Literal["Reader", "Viewer", "Forecaster", "Writer", "Student", "Servant"]
    reader: Reader | None = None
    viewer: Viewer | None = None
    forecaster: Forecaster | None = None
    writer: Reader | None = None
    student: Student | None = None
    servant: Servant | None = None


@tagged_union
class Sources(Strict):
    type: Literal["Book", "Paper", "Letter", "Album", "Film", "Log", "Archive"]
    book: Book | None = None
    paper: Book | None = None
    letter: Book | None = None
    album: Album | None = None
    film: Album | None = None
    log: Log | None = None
    archive: Archive | None = None
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
    ("Student", "Archive"), ("Student sorts", "Archive"),
    ("Student reads", "Book"), ("Student reads", "Paper"), ("Student reads", "Letter"),
    ("Student guesses", "Book"), ("Student guesses", "Paper"), ("Student guesses", "Letter"),
    ("Servant sorts", "Archive"), ("Servant looks", "Album"), ("Servant looks", "Film"),
}  # fmt: skip

MODELS: dict[str, dict[str, Any]] = {
    **{word: {"type": word} for word in ("Reader", "Viewer", "Forecaster", "Writer", "Student")},
    "Student sorts": {"type": "Student", "student": {}},
    "Student reads": {"type": "Student", "student": {"itsTask": "Read"}},
    "Student guesses": {"type": "Student", "student": {"itsTask": "Guess"}},
    "Servant sorts": {"type": "Servant", "servant": {"task": "Sort"}},
    "Servant looks": {"type": "Servant", "servant": {"task": "Look"}},
}


def every_pair() -> Iterator[tuple[dict[str, Any], set[str]]]:
    """Each pair of words, without and with changes of text, and the sentences that it should be refused with."""
    sources = typing.get_args(Sources.model_fields["type"].annotation)
    for model, source, changed in itertools.product(MODELS, sources, (False, True)):
        data = {"model": MODELS[model], "data": {"type": source, **({"transforms": 1} if changed else {})}}
        refused = {FITS} if (model, source) not in ALLOWED else set()
        yield data, refused | ({CHANGES} if changed and source in ("Album", "Film", "Log") else set())


def test_more_kinds_make_longer_sentences() -> None:
    assert FITS == (
        "model.type Forecaster needs data.type Log, Student with itsTask Sort or Servant with task Sort needs Archive, "
        "Viewer or Servant with task Look needs Album or Film, and Reader or Writer or Student with itsTask Read or "
        "Student with itsTask Guess needs Book or Paper or Letter"
    )
    assert CHANGES.endswith("must not be set if data.type is Album or Film or Log")


def test_a_model_takes_data_of_its_kind_and_no_other() -> None:
    for data, refused in every_pair():
        assert {rule.message for rule in broken_rules(Training, data)} == refused, data


def test_settings_that_are_missing_are_the_mistake_of_another_rule() -> None:
    data = {"model": {"type": "Servant"}, "data": {"type": "Book"}}
    assert FITS not in {rule.message for rule in broken_rules(Training, data)}
    assert "(self.model.type == 'Servant' && !has(self.model.servant)) || " in Training.rules[0].cel


def test_what_a_model_reads_follows_from_its_settings() -> None:
    assert kind_read(Reader()) == TEXT
    assert kind_read(Student()) == LABELLED_TEXT
    assert kind_read(Student(its_task="Guess")) == MASKED_TEXT


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

    with pytest.raises(TypeError, match="given by a source and read by a model: labelled text, series"):
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
