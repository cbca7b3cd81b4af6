"""Several texts that are trained on together, each with its weight.

MixtureData      the sources, and how their weights change
MixtureSource    one of them
MixtureStage     weights that hold from a part of the run on
"""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from costopt.schema.base import DESCRIBED_ELSEWHERE, Name, PlainData, Rule, Strict, list_map_keys
from costopt.schema.data_kinds import TEXT, GivesSamples
from costopt.schema.models import CEL_CARRIES_STATE, carries_state
from costopt.schema.text_sources import PythonStandardLibraryData, RecordsData, TextData, TokenShardsData
from costopt.schema.unions import one_of

MOST_SOURCES = 16
_AS_DATA = Field(json_schema_extra=DESCRIBED_ELSEWHERE)
Weight = Annotated[int, Field(ge=0, le=10**6)]


@one_of(text="files", python_standard_library="of Python", records="lines or rows", token_shards="ready-made")  # noqa: S106
class MixtureSource(Strict):
    """One of several sources."""

    name: Name
    """Its name in the log and in results."""
    weight: Weight = 1
    """How many samples are drawn of it, to the other sources' weights. 0: none; it is evaluated only."""
    end_weight: Weight | None = None
    """Its weight at the end of the run, to which it changes linearly. None: it stays."""
    text: Annotated[TextData | None, _AS_DATA] = None
    """As data.text."""
    python_standard_library: Annotated[PythonStandardLibraryData | None, _AS_DATA] = None
    """As data.pythonStandardLibrary."""
    records: Annotated[RecordsData | None, _AS_DATA] = None
    """As data.records."""
    token_shards: Annotated[TokenShardsData | None, _AS_DATA] = None
    """As data.tokenShards."""

    @property
    def last_weight(self) -> int:
        """Its weight at the end of the run, without stages."""
        return self.weight if self.end_weight is None else self.end_weight


class MixtureStage(Strict):
    """Other weights, from a part of the run on."""

    from_percent: Annotated[int, Field(ge=1, le=99)]
    """Percent of the run after which they hold."""
    weights: Annotated[
        dict[Annotated[str, StringConstraints(max_length=63)], Weight], Field(min_length=1, max_length=MOST_SOURCES)
    ]
    """The weight of each source, by its name."""


def _ends(source: PlainData) -> int:
    return int(source.get("endWeight", source["weight"]))


def _some_weight(data: PlainData) -> bool:
    sources: list[Any] = data["sources"]
    return (
        any(source["weight"] > 0 for source in sources)
        and any(_ends(source) > 0 for source in sources)
        and all(any(weight > 0 for weight in stage["weights"].values()) for stage in data.get("stages", ()))
    )


def _stages_name_all(data: PlainData) -> bool:
    names = {source["name"] for source in data["sources"]}
    return all(stage["weights"].keys() == names for stage in data.get("stages", ()))


_TELLS_FILES = {"text": "include", "records": "format", "tokenShards": "include"}
"""By kind of source: what decides, beside its path, which files are read."""


def _files(source: PlainData) -> tuple[object, ...] | None:
    """What one source reads; None if that is not told by one path."""
    if "pythonStandardLibrary" in source:
        return ("pythonStandardLibrary",)
    given = ((kind, source[kind], also) for kind, also in _TELLS_FILES.items() if kind in source)
    return next(((kind, own["path"], own[also]) for kind, own, also in given if "path" in own), None)


def _read_each_once(data: PlainData) -> bool:
    found = [files for source in data["sources"] if (files := _files(source)) is not None]
    return len(found) == len(set(found))


_CEL_SAME_FILES = " || ".join(
    [
        "has(one.pythonStandardLibrary) && has(other.pythonStandardLibrary)",
        *(
            f"has(one.{kind}) && has(other.{kind}) && has(one.{kind}.path) && has(other.{kind}.path) && "
            f"one.{kind}.path == other.{kind}.path && one.{kind}.{also} == other.{kind}.{also}"
            for kind, also in _TELLS_FILES.items()
        ),
    ]
)


class MixtureData(GivesSamples):
    """Texts whose samples are drawn by weight: exactly so many of each, whatever their sizes. A small one is repeated,
    each time in another order."""

    gives = TEXT

    sources: Annotated[
        list[MixtureSource],
        Field(min_length=1, max_length=MOST_SOURCES, json_schema_extra=list_map_keys("name")),
    ]
    """The texts, which have one tokenizer. Of each `validationPercent` is held out."""
    stages: (
        Annotated[
            list[MixtureStage],
            Field(min_length=1, max_length=16, json_schema_extra=list_map_keys("fromPercent")),
        ]
        | None
    ) = None
    """Weights that hold from parts of the run on, in place of those before. None: there are no stages."""

    rules = (
        Rule(
            cel="self.sources.exists(one, one.weight > 0) && "
            "self.sources.exists(one, (has(one.endWeight) ? one.endWeight : one.weight) > 0) && "
            "(!has(self.stages) || self.stages.all(stage, stage.weights.exists(name, stage.weights[name] > 0)))",
            message="at least one source must have a weight above 0 at any time: at the start, at the end and in each "
            "stage",
            holds=_some_weight,
        ),
        Rule(
            cel="!has(self.stages) || self.stages.all(stage, stage.weights.size() == self.sources.size() && "
            "self.sources.all(one, one.name in stage.weights))",
            message="the weights of each stage must name all sources, and nothing else",
            holds=_stages_name_all,
        ),
        Rule(
            cel="!has(self.stages) || !self.sources.exists(one, has(one.endWeight))",
            message="endWeight must not be set beside stages, which say what each source's weight is later",
            holds=lambda data: "stages" not in data or all("endWeight" not in source for source in data["sources"]),
        ),
        Rule(
            cel=f"self.sources.all(one, self.sources.filter(other, {_CEL_SAME_FILES}).size() <= 1)",
            message="no two sources may read the same files: name each in one of them",
            holds=_read_each_once,
        ),
    )

    @property
    def changes(self) -> bool:
        """Whether any weight is another later."""
        return bool(self.stages) or any(source.last_weight != source.weight for source in self.sources)


def _mixture(data: PlainData) -> PlainData:
    mixture: PlainData = data["data"].get("mixture", {})
    return mixture


def _changes(data: PlainData) -> bool:
    mixture = _mixture(data)
    return "stages" in mixture or any("endWeight" in source for source in mixture.get("sources", ()))


def _ends_are_known(data: PlainData) -> bool:
    if data["data"].get("packing", {}).get("boundaries", "Ignore") == "Ignore":
        return True
    given = [source["tokenShards"] for source in _mixture(data).get("sources", ()) if "tokenShards" in source]
    return all("endOfTextToken" in tokens for tokens in given)


mixture_rules = (
    Rule(
        cel="!has(self.data.mixture) || self.data.?packing.?boundaries.orValue('Ignore') == 'Ignore' || "
        "self.data.mixture.sources.all(one, !has(one.tokenShards) || has(one.tokenShards.endOfTextToken))",
        message="tokenShards.endOfTextToken must be set in each source of data.mixture if data.packing.boundaries is "
        "Loss or Attention: it tells where a document ends",
        holds=_ends_are_known,
    ),
    Rule(
        cel="!has(self.data.mixture) || self.data.?order.?type.orValue('Shuffled') == 'Shuffled'",
        message="data.order must be left out if data.type is Mixture: each source is shuffled by itself",
        holds=lambda data: (
            "mixture" not in data["data"] or data["data"].get("order", {}).get("type", "Shuffled") == "Shuffled"
        ),
    ),
    Rule(
        cel=f"!has(self.data.mixture) || !{CEL_CARRIES_STATE}",
        message="data.type must not be Mixture with model.lstm.carryState, whose samples go on from one another",
        holds=lambda data: "mixture" not in data["data"] or not carries_state(data["model"]),
    ),
    Rule(
        cel="!has(self.data.mixture) || !has(self.batch.auto) || "
        "!has(self.data.mixture.stages) && !self.data.mixture.sources.exists(one, has(one.endWeight))",
        message="batch.auto must not be set with weights of data.mixture that change: how many samples the run has is "
        "not known then",
        holds=lambda data: "auto" not in data["batch"] or not _changes(data),
    ),
)
"""The rules of a recipe about mixtures."""
