"""What Cosine, Linear, Constant and WarmupStableDecay have in common: how they begin.

rising        the rate of a step of the warm-up
share_done    how much of what follows it is over
"""

from costopt.schema.optimization import Schedule


def rising(settings: Schedule, *, peak: float, step: int) -> float | None:
    """The rate of a step up to warmupSteps, on a straight line from 0 to `peak`; None of a later step."""
    return peak * step / settings.warmup_steps if step <= settings.warmup_steps else None


def share_done(settings: Schedule, *, total_steps: int, step: int) -> float:
    """How much of what follows the warm-up is over after `step`, more than 0 and up to 1."""
    return (step - settings.warmup_steps) / (total_steps - settings.warmup_steps)
