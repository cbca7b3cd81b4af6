"""What `accept` may ask of a variant, where the job itself tells what its model is measured on."""

from costopt.schema.base import PlainData, Rule, cel_list
from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import TEXT, words_giving
from costopt.schema.variant_report import CLASS_METRICS

_WITHOUT_CLASSES = words_giving(DataSettings, only=[TEXT])
"""Sources of data in which no classes are told."""


def _source(spec: PlainData) -> str | None:
    """The word of the data that the model is measured on; None if the job does not say."""
    measured_on = spec.get("evaluation") or spec.get("train", {}).get("recipe") or {}
    source: str | None = measured_on.get("data", {}).get("type")
    return source


def _holds(spec: PlainData) -> bool:
    asked = any(variant.get("accept", {}).get("metric") in CLASS_METRICS for variant in spec["compress"])
    return not asked or _source(spec) not in _WITHOUT_CLASSES


METRIC_FITS_DATA = Rule(
    cel="!has(self.compress) || !self.compress.exists(v, has(v.accept) && has(v.accept.metric) && "
    "v.accept.metric != 'Loss') || !((has(self.evaluation) ? self.evaluation.data.type : has(self.train) && "
    f"has(self.train.recipe) ? self.train.recipe.data.type : '') in {cel_list(_WITHOUT_CLASSES)})",
    message="accept.metric must be Loss where the data tells no classes",
    holds=_holds,
)
"""For JobSpec."""
