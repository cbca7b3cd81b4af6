"""Mistakes in the mixture of several sources."""

from typing import Any

from builders.documents import RECIPE, MistakeCase, changed, in_job

DATA = f"{RECIPE}.data"
MIXTURE = f"{DATA}.mixture"


def mixed(first: dict[str, Any], second: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Two sources, in addition to what is given of each."""
    sources = [
        {"name": "a", "text": {"path": "a.txt"}, **first},
        {"name": "b", "text": {"path": "b.txt"}, **(second or {})},
    ]
    return {"type": "Mixture", "mixture": {"sources": sources, **more.pop("mixture", {})}, **more}


NO_WEIGHT = "at least one source must have a weight above 0 at any time: at the start, at the end and in each stage"
STAGE = {"fromPercent": 50, "weights": {"a": 1, "b": 2}}

MIXTURE_MISTAKES = [
    MistakeCase("no weight at the start", in_job(DATA, mixed({"weight": 0}, {"weight": 0})), MIXTURE, NO_WEIGHT),
    MistakeCase(
        "no weight at the end",
        in_job(DATA, mixed({"endWeight": 0}, {"weight": 2, "endWeight": 0})),
        MIXTURE,
        NO_WEIGHT,
    ),
    MistakeCase(
        "no weight in a stage",
        in_job(DATA, mixed({}, mixture={"stages": [STAGE, {"fromPercent": 60, "weights": {"a": 0, "b": 0}}]})),
        MIXTURE,
        NO_WEIGHT,
    ),
    MistakeCase(
        "a negative weight",
        in_job(DATA, mixed({"weight": -1})),
        f"{MIXTURE}.sources[0].weight",
        f"{MIXTURE}.sources[0].weight in body should be greater than or equal to 0",
    ),
    MistakeCase(
        "two sources of one name",
        in_job(DATA, mixed({}, {"name": "a"})),
        f"{MIXTURE}.sources[1]",
        'Duplicate value: {"name":"a"}',
        "sources must not hold two items of the same name",
    ),
    MistakeCase(
        "a source of two kinds",
        in_job(DATA, mixed({"records": {"path": "a.jsonl"}})),
        f"{MIXTURE}.sources[0]",
        "exactly one of text (files), pythonStandardLibrary (of Python), records (lines or rows), tokenShards",
    ),
    MistakeCase(
        "a stage that forgets a source",
        in_job(DATA, mixed({}, mixture={"stages": [{"fromPercent": 50, "weights": {"a": 1, "c": 1}}]})),
        MIXTURE,
        "the weights of each stage must name all sources, and nothing else",
    ),
    MistakeCase(
        "a last weight beside stages",
        in_job(DATA, mixed({"endWeight": 2}, mixture={"stages": [STAGE]})),
        MIXTURE,
        "endWeight must not be set beside stages",
    ),
    MistakeCase(
        "an order of a mixture",
        in_job(DATA, mixed({}, order={"type": "Curriculum", "curriculum": {"by": "Loss", "steps": 9}})),
        RECIPE,
        "data.order must be left out if data.type is Mixture",
    ),
    MistakeCase(
        "a mixture for states that are carried",
        changed(in_job(DATA, mixed({})), f"{RECIPE}.model", {"type": "LSTM", "lstm": {"carryState": True}}),
        RECIPE,
        "data.type must not be Mixture with model.lstm.carryState",
    ),
    MistakeCase(
        "weights that change over a run of unknown length",
        changed(
            in_job(DATA, mixed({"endWeight": 2})),
            f"{RECIPE}.batch.auto",
            {"largest": 4096, "afterSteps": 1, "measureSteps": 1},
        ),
        RECIPE,
        "batch.auto must not be set with weights of data.mixture that change",
    ),
    MistakeCase(
        "tokens of a mixture whose documents end nobody knows where",
        in_job(
            DATA,
            {
                "type": "Mixture",
                "mixture": {
                    "sources": [
                        {"name": "a", "text": {"path": "a.txt"}},
                        {"name": "b", "tokenShards": {"path": "b.bin", "vocabularySize": 256}},
                    ]
                },
                "packing": {"boundaries": "Loss"},
            },
        ),
        RECIPE,
        "tokenShards.endOfTextToken must be set in each source of data.mixture",
    ),
]
