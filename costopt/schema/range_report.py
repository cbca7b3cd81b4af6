"""What a learning-rate range test is asked, and what it answers: `costopt lr-find` starts one and shows it."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import Count, DecimalString, Figure, LongText, Strict

MOST_STEPS = 10_000


class RangeRequest(Strict):
    """A sweep of learning rates, evenly spaced in their logarithm."""

    lowest: DecimalString
    """Learning rate of the first step."""
    highest: DecimalString
    """That of the last one, if the loss does not diverge before."""
    steps: Annotated[int, Field(ge=10, le=MOST_STEPS)]
    """Steps from the one to the other."""


class RangePoint(Strict):
    """One step of the sweep."""

    step: Count
    """Its number, from 1."""
    learning_rate: Figure
    """Rate of this step."""
    loss: Figure
    """Its training loss, before the weights change: nats per token, or per sample."""
    smoothed_loss: Figure
    """Mean of the losses so far, of which the last ones weigh most."""


class RangeReport(Strict):
    """What a sweep has found."""

    points: Annotated[list[RangePoint], Field(max_length=MOST_STEPS)]
    """The steps taken, in order; the last one has diverged if `end` says so."""
    end: Literal["Diverged", "HighestRate"]
    """Why it ended."""
    suggested_learning_rate: DecimalString | None = None
    """For optimizer.learningRate. None: nothing can be suggested."""
    rule: LongText
    """By which rule it was chosen, or why there is none."""


class RangeRefusal(Strict):
    """Why no sweep was made."""

    message: LongText
    """What is wrong, in one sentence."""
