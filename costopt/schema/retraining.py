"""Steps that train need a recipe: a rule of the job, for a variant knows of no training."""

from costopt.schema.base import PlainData, Rule


def _trains(step: PlainData) -> bool:
    """Whether a plain step takes optimizer steps, as `compression.trains` has it of a parsed one."""
    within = [step.get(key) or {} for key in ("prune", "quantize")]
    asks = any((settings.get("fineTuneSteps") or 0) > 0 for settings in within)
    return (
        asks
        or bool((step.get("external") or {}).get("trains"))
        or step.get("fineTune") is not None
        or step.get("distill") is not None
    )


def _holds(spec: PlainData) -> bool:
    if "recipe" in spec.get("train", {}):
        return True
    return not any(_trains(step) for variant in spec["compress"] for step in variant["steps"])


TRAINING_NEEDS_RECIPE = Rule(
    cel="!has(self.compress) || (has(self.train) && has(self.train.recipe)) || self.compress.all(v, v.steps.all(s, "
    "!has(s.fineTune) && !has(s.distill) && (!has(s.prune) || s.prune.fineTuneSteps == 0) && "
    "(!has(s.quantize) || !has(s.quantize.fineTuneSteps)) && "
    "(!has(s.external) || !s.external.trains)))",
    message="compress must not have steps that train (FineTune, Distill, and others with fineTuneSteps) where no "
    "recipe does: nothing is known of how the model was trained",
    holds=_holds,
)
"""For JobSpec."""
