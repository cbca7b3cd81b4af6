"""A training whose figures are no longer finite."""

from costopt.schema.recipe import Recipe
from costopt_trainer.errors import NotRetryable


def diverged(what: str, recipe: Recipe) -> NotRetryable:
    """The error of a training whose figures are no longer finite: the same steps would lead there again."""
    advice = f"lower optimizer.learningRate (now {recipe.optimizer.learning_rate}), lengthen schedule.warmupSteps"
    if recipe.precision == "FP16":
        other = "train in BF16 or FP32"
    elif recipe.optimizer.gradient_clip_value is not None:
        other = f"lower optimizer.gradientClipValue (now {recipe.optimizer.gradient_clip_value})"
    elif recipe.optimizer.largest_norm > 0:
        other = f"lower optimizer.gradientClipNorm (now {recipe.optimizer.gradient_clip_norm or '1.0'})"
    else:
        other = "clip gradients (optimizer.gradientClipNorm is 0, which is off)"
    return NotRetryable("LossNotFinite", f"{what}: {advice} or {other}")
