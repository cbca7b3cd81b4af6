"""Linear warm-up, then cosine decay to the last step (SGDR without restarts, arXiv 1608.03983)."""

from math import cos, pi

from costopt.schema.optimization import Schedule
from costopt_trainer.training.schedules.warm_up import rising, share_done


def cosine(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
    """Up linearly to `peak` at warmupSteps, down a cosine to minLearningRate at `total_steps`."""
    lowest = float(settings.min_learning_rate)
    if (rate := rising(settings, peak=peak, step=step)) is not None:
        return rate
    done = share_done(settings, total_steps=total_steps, step=step)
    return lowest + (peak - lowest) * (1 + cos(pi * done)) / 2
