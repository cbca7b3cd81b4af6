"""Linear warm-up, then cosine decay to the last step (SGDR without restarts, arXiv 1608.03983)."""

from math import cos, pi

from costopt.schema.optimization import Schedule


def cosine(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
    """Up linearly to `peak` at warmupSteps, down a cosine to minLearningRate at `total_steps`."""
    lowest, warmup_steps = float(settings.min_learning_rate), settings.warmup_steps
    if step <= warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return lowest + (peak - lowest) * (1 + cos(pi * done)) / 2
