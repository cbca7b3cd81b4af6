"""Linear warm-up, then one rate."""

from costopt.schema.optimization import Schedule
from costopt_trainer.training.schedules.warm_up import rising


def constant(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:  # noqa: ARG001  as others
    """Up linearly to `peak` at warmupSteps, and `peak` from there on."""
    rate = rising(settings, peak=peak, step=step)
    return peak if rate is None else rate
