"""A refusal because of a degree names values that obey all rules of the document, and none where there is none."""

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from builders.documents import TRAIN, changed, plain_job
from costopt.schema.crd import custom_resource_definitions
from costopt.schema.degrees import DEGREES
from costopt.schema.document import read_documents
from costopt.schema.job import Train

PARALLELISM = "recipe.parallelism"
ALONE = re.compile(r"; (?:no other (?P<none>.*) would do; )?each of these alone would(?: do)?: (?P<values>.*)$")
TOGETHER = re.compile(r"; no other value of one setting would do; these two together would: (.*) with (.*)$")
ALL_OUT = f"; no other value of one setting would do; leave {PARALLELISM} out"
NOTHING = "; no other value of one setting would do; nor would one of any two"


def with_degrees(**degrees: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=degrees)


DEGREE = st.sampled_from([1, 2, 2, 3, 4, 5, 6, 8])
LAYOUTS = with_degrees(
    dataParallel=DEGREE,
    shard=DEGREE,
    tensor=DEGREE,
    pipeline=DEGREE,
    schedule=st.sampled_from(["GPipe", "Interleaved"]),
    stagesPerRank=st.integers(1, 3),
    sequenceParallel=st.booleans(),
    layersPerStage=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
ATTENTION = {"type": "Text", "text": {"path": "a.txt"}, "packing": {"boundaries": "Attention"}}


@st.composite
def trainings(draw: st.DrawFn) -> dict[str, Any]:
    """`spec.train` of a job whose only mistakes are of degrees, if it has any."""
    heads, micro = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12])), draw(st.integers(1, 3))
    batch: dict[str, Any] = {"globalBatchSize": micro * draw(st.integers(1, 24)), "microBatchSize": micro}
    decoder = {
        "numHeads": heads,
        "embeddingDim": heads * 8,
        "numLayers": draw(st.integers(1, 8)),
        "contextLength": draw(st.sampled_from([16, 24, 36])),
    }
    model = draw(
        st.sampled_from(
            [
                {"type": "DecoderLM", "decoderLM": decoder},
                {"type": "DecoderLM", "decoderLM": decoder},
                {"type": "LSTM", "lstm": {"numLayers": 3, "carryState": draw(st.booleans())}},
                {"type": "HuggingFace", "huggingFace": {"path": "a"}},
            ]
        )
    )
    layout = draw(LAYOUTS)
    if layout.get("stagesPerRank", 1) > 1:
        layout["schedule"] = "Interleaved"
    train: dict[str, Any] = {
        "numNodes": draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12])),
        "resourcesPerNode": {"requests": {"cpu": 1, "memory": "1Gi"}},
        "recipe": {
            "model": model,
            "data": {"type": "Text", "text": {"path": "a.txt"}},
            "batch": batch,
            "totalSteps": 1000,
            "optimizer": {"type": draw(st.sampled_from(["AdamW", "AdamW", "Adafactor"]))},
            "parallelism": layout,
        },
    }
    if draw(st.booleans()):
        train["processesPerNode"] = draw(st.integers(1, 4))
    if model["type"] == "DecoderLM" and draw(st.integers(0, 3)) == 0:
        train["recipe"]["data"] = ATTENTION
    if model["type"] == "DecoderLM" and draw(st.integers(0, 3)) == 0:
        batch["auto"] = {"largest": batch["globalBatchSize"] + draw(st.integers(0, 24))}
    return train


def is_valid(train: dict[str, Any]) -> bool:
    try:
        Train.model_validate_json(json.dumps(train))
    except ValidationError:
        return False
    return True


def job_of(train: dict[str, Any]) -> dict[str, Any]:
    return changed(plain_job(), TRAIN, train)


def sentences_of(train: dict[str, Any]) -> list[str]:
    _, mistakes = read_documents(yaml.safe_dump(job_of(train)), "wrong.yaml")
    return [mistake.sentence for mistake in mistakes]


def put(train: dict[str, Any], setting: str, value: Any) -> dict[str, Any]:
    *path, last = setting.split(".")
    other = copy.deepcopy(train)
    place = other
    for key in path:
        place = place.setdefault(key, {})
    place.pop(last, None) if value == "left out" else place.update({last: value})
    return other


def values_in(text: str) -> Iterator[tuple[str, Any]]:
    """Setting and value of "a.b 1, 2 or 4; c left out"."""
    for part in text.split("; "):
        setting, _, told = part.partition(" ")
        for one in re.split(", | or ", told):
            yield setting, int(one) if one.isdigit() else {"false": False}.get(one, one)


@given(train=trainings())
@settings(max_examples=60)
def test_what_a_refusal_names_passes_all_rules_once_it_is_put_in_place(train: dict[str, Any]) -> None:
    sentences = sentences_of(train)
    assume(sentences)
    for sentence in sentences:
        if found := ALONE.search(sentence):
            named = list(values_in(found["values"]))
            assert named
            for setting, value in named:
                assert is_valid(put(train, setting, value)), (sentence, setting, value)
            if found["none"]:
                assert not {setting.rpartition(".")[2] for setting, _ in named} & set(
                    re.split(", | or ", found["none"])
                )
        elif found := TOGETHER.search(sentence):
            [(first, one)], [(second, other)] = values_in(found[1]), values_in(found[2])
            assert is_valid(put(put(train, first, one), second, other)), sentence
        elif sentence.endswith(ALL_OUT):
            assert is_valid(put(train, PARALLELISM, "left out"))
        else:
            assert NOTHING in sentence


EVERY_VALUE = {
    **{f"{PARALLELISM}.{name}": range(1, 65) for name in DEGREES},
    "recipe.batch.globalBatchSize": range(1, 1200),
    "recipe.batch.microBatchSize": range(1, 80),
    "numNodes": range(1, 600),
    f"{PARALLELISM}.stagesPerRank": range(1, 65),
    f"{PARALLELISM}.layersPerStage": ["left out"],
    f"{PARALLELISM}.sequenceParallel": [False],
    "recipe.batch.auto": ["left out"],
}


def interleaved(batch: int) -> dict[str, Any]:
    """Three ranks of two stages each, and samples for one pass."""
    train: dict[str, Any] = plain_job()["spec"]["train"]
    train["recipe"] |= {
        "model": {"type": "DecoderLM", "decoderLM": {"numLayers": 6}},
        "batch": {"globalBatchSize": batch, "microBatchSize": batch},
        "parallelism": {"pipeline": 3, "schedule": "Interleaved"},
    }
    return train | {"numNodes": 3}


@example(train=interleaved(7), setting="recipe.batch.globalBatchSize")
@given(train=trainings(), setting=st.sampled_from(sorted(EVERY_VALUE)))
@settings(max_examples=60)
def test_a_setting_of_which_nothing_is_named_has_no_value_that_would_do(train: dict[str, Any], setting: str) -> None:
    sentences = sentences_of(train)
    assume(sentences)
    for sentence in sentences:
        found = ALONE.search(sentence)
        if found is None or setting not in dict(values_in(found["values"])):
            fitting = [value for value in EVERY_VALUE[setting] if is_valid(put(train, setting, value))]
            assert fitting == [], sentence


LISTS = re.compile(
    r"; with these ranks, batch and model would fit, alone: (.*); costopt validate looks at all settings"
)


def server_says(crdcheck: Path, trains: list[dict[str, Any]]) -> list[list[str]]:
    question = {"crds": custom_resource_definitions(), "documents": [job_of(train) for train in trains], "changes": []}
    answered = subprocess.run([crdcheck], input=json.dumps(question), capture_output=True, text=True, check=True)
    found: list[list[str]] = json.loads(answered.stdout)["documents"]
    return found


@pytest.mark.timeout(900)
def test_what_the_api_server_names_it_takes_and_it_names_the_degrees_that_validate_names(crdcheck: Path) -> None:
    """But for the demands of a recipe, such as those of its optimizer, of which it does not know there."""
    trains: list[dict[str, Any]] = []

    @given(train=trainings())
    @settings(max_examples=80, database=None)
    def collect(train: dict[str, Any]) -> None:
        trains.append(train)

    collect()
    changes, sentences = [], []
    for train, refusals in zip(trains, server_says(crdcheck, trains), strict=True):
        assert bool(refusals) == (not is_valid(train))
        for refusal in refusals:
            if (found := LISTS.search(refusal)) is None:
                continue
            lists = {name: json.loads(values) for name, values in re.findall(r"(\w+) (\[.*?\])", found[1])}
            assert list(lists)[-4:] == list(DEGREES)
            named: set[tuple[str, Any]] = set()
            for sentence in sentences_of(train):
                if alone := ALONE.search(sentence):
                    named |= {(setting.rpartition(".")[2], value) for setting, value in values_in(alone["values"])}
            listed = {(name, value) for name, values in lists.items() for value in values}
            assert {(name, value) for name, value in named if name in DEGREES} <= listed, refusal
            for name, values in lists.items():
                setting = f"recipe.batch.{name}" if name == "globalBatchSize" else f"{PARALLELISM}.{name}"
                changes += [put(train, setting, value) for value in values]
                sentences += [(refusal, setting, value) for value in values]
    assert len(changes) > 20
    for sentence, refusals in zip(sentences, server_says(crdcheck, changes), strict=True):
        of_recipe = [refusal for refusal in refusals if refusal.startswith("spec.train.recipe: ")]
        assert refusals == of_recipe, sentence


def test_of_a_mistake_that_no_degree_could_mend_nothing_is_named() -> None:
    train = changed(plain_job(), f"{TRAIN}.recipe.parallelism", {"shard": 2, "offloadToCpu": True})["spec"]["train"]
    train["recipe"]["optimizer"] = {"type": "Muon"}
    [sentence] = sentences_of(train)
    assert sentence.endswith("use AdamW, SGD or Lion")


def test_degrees_are_named_beside_a_mistake_of_another_kind() -> None:
    train = plain_job()["spec"]["train"]
    train["recipe"] |= {"parallelism": {"tensor": 3}, "schedule": {"warmupSteps": 40}}
    train["numNodes"] = 12
    train["recipe"]["batch"] = {"globalBatchSize": 24, "microBatchSize": 1}
    ranks, warmup = sentences_of(train)
    assert ranks.endswith("; each of these alone would do: recipe.parallelism.tensor 1, 2 or 4")
    assert warmup == "schedule.warmupSteps must be less than totalSteps"


def test_where_no_one_setting_would_do_and_all_degrees_left_out_would_that_is_said() -> None:
    train = plain_job()["spec"]["train"]
    train["numNodes"] = 6
    train["recipe"]["batch"] = {"globalBatchSize": 6, "microBatchSize": 1}
    train["recipe"]["parallelism"] = {"tensor": 3, "pipeline": 5, "dataParallel": 7}
    assert all(sentence.endswith(ALL_OUT) for sentence in sentences_of(train))
    assert is_valid(put(train, PARALLELISM, "left out"))


def test_more_ranks_than_degrees_are_usual_for_are_told_what_would_do_as_well() -> None:
    train = plain_job()["spec"]["train"]
    train |= {"numNodes": 4095, "processesPerNode": 64}
    train["recipe"]["parallelism"] = {"tensor": 11, "dataParallel": 7, "shard": 13}
    assert all("would" in sentence for sentence in sentences_of(train))
