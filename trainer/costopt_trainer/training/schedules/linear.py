"""Linear warm-up, then linear decay to the last step."""

from costopt.schema.optimization import Schedule
from costopt_trainer.training.schedules.warm_up import rising, share_done


def linear(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
    """Up to `peak` at warmupSteps, down to minLearningRate at `total_steps`, both on a straight line."""
    lowest = float(settings.min_learning_rate)
    if (rate := rising(settings, peak=peak, step=step)) is not None:
        return rate
    done = share_done(settings, total_steps=total_steps, step=step)
    return lowest + (peak - lowest) * (1 - done)
