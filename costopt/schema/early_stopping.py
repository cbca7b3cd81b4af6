"""Ending a training when it has learnt what it can: settings, and what is reported of it."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import Count, DecimalString, Figure, Rule, Strict

StoppingMetric = Literal["ValidationLoss", "Accuracy", "MacroF1"]


class EarlyStopping(Strict):
    """When a training ends before its last step: once evaluations no longer improve. Each step that is evaluated is
    saved as well, so that its decision outlives any kill and the best step can be gone back to."""

    metric: StoppingMetric = "ValidationLoss"
    """Figure that is to improve. ValidationLoss: in nats, the lower the better; Accuracy, MacroF1: of models that tell
    classes, per mille, the higher the better."""
    patience_evaluations: Annotated[int, Field(ge=1, le=10**6)] = 5
    """Training ends after so many evaluations in a row without an improvement."""
    least_improvement: DecimalString = "0"
    """Smallest change for the better that counts as an improvement, from the last evaluation that counted, in the unit
    of the metric. "0": any change for the better counts."""
    restore_best: bool = True
    """True: the trained model, of which variants are made, is that of the best evaluation, also if training came to its
    last step; its checkpoint is kept. False: that of the step at which training ended."""

    rules = (
        Rule(
            cel="self.metric == 'ValidationLoss' || double(self.leastImprovement) <= 1000.0",
            message="leastImprovement must be at most 1000 with metric Accuracy or MacroF1, which are per mille",
            holds=lambda data: data["metric"] == "ValidationLoss" or float(data["leastImprovement"]) <= 1000,
        ),
    )


class EarlyStoppingReport(Strict):
    """What evaluations have come to, where training ends once they no longer improve."""

    metric: StoppingMetric
    """Figure that is to improve: nats for ValidationLoss, else per mille."""
    best: Figure
    """Best one so far."""
    best_step: Count
    """Step of that."""
    evaluations_waited: Count = 0
    """Evaluations in a row that were no improvement."""
    stopped_at_step: Count | None = None
    """Step at which training ended for it. None: it did not."""
    model_step: Count | None = None
    """Step of which the trained model is. None: there is none yet."""
