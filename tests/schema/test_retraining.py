"""A job without a recipe has no steps that train: the rule knows the same steps as those who make variants."""

from typing import Any

import pytest

from builders.documents import plain_given_job
from costopt.schema.compression import Step, trains
from costopt.schema.retraining import TRAINING_NEEDS_RECIPE

STEPS: list[dict[str, Any]] = [
    {"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}},
    {"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly", "fineTuneSteps": 4}},
    {"type": "Prune", "prune": {"structure": "Structured", "percent": 30}},
    {"type": "Prune", "prune": {"structure": "Structured", "percent": 30, "fineTuneSteps": 4}},
    {"type": "FineTune", "fineTune": {"steps": 4}},
    {"type": "Distill", "distill": {"steps": 4}},
    {"type": "LowRank", "lowRank": {"percent": 30}},
    {"type": "ShareWeights", "shareWeights": {"layers": 2}},
    {"type": "External", "external": {"name": "theirs"}},
    {"type": "External", "external": {"name": "theirs", "trains": True}},
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step['type']}-{len(str(step))}")
def test_what_trains_is_refused_without_a_recipe_and_nothing_else(step: dict[str, Any]) -> None:
    job = plain_given_job()
    job["spec"]["compress"][0]["steps"] = [step]
    assert TRAINING_NEEDS_RECIPE.holds(job["spec"]) != trains([Step.model_validate(step)])


def test_every_type_of_step_is_among_these() -> None:
    types = Step.model_fields["type"].annotation
    assert {step["type"] for step in STEPS} == set(types.__args__)  # type: ignore[union-attr]
