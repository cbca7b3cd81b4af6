"""Warm-up, one rate for most of the training, then a short decay (MiniCPM, arXiv 2404.06395).

The stable part does not depend on the number of steps: a training may be given more of them before its decay begins.
The decay by a square root is that of Hägele et al., arXiv 2405.18392.
"""

from math import sqrt

from costopt.schema import optimization
from costopt.schema.optimization import Schedule
from costopt_trainer.training.schedules.warm_up import rising


def warmup_stable_decay(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
    """Up linearly to `peak` at warmupSteps, `peak`, and in the last decaySteps down to minLearningRate."""
    own = settings.warmup_stable_decay or optimization.WarmupStableDecay()
    lowest = float(settings.min_learning_rate)
    if (rate := rising(settings, peak=peak, step=step)) is not None:
        return rate
    decay_steps = own.decay_steps or min(-(-total_steps // 10), total_steps - settings.warmup_steps)
    done = max(0, step - (total_steps - decay_steps)) / decay_steps
    return lowest + (peak - lowest) * (1 - (sqrt(done) if own.decay_shape == "SquareRoot" else done))
