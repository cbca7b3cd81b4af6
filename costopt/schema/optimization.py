"""How the built-in trainer turns gradients into steps: optimizer and learning-rate schedule."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import DecimalString, Rule, Strict
from costopt.schema.unions import tagged_union


class AdamW(Strict):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    beta1: DecimalString = "0.9"
    """Decay of the first moment; less than 1."""
    beta2: DecimalString = "0.95"
    """Decay of the second moment; less than 1."""

    rules = (
        Rule(
            cel="double(self.beta1) < 1.0 && double(self.beta2) < 1.0",
            message="beta1 and beta2 must be less than 1",
            holds=lambda data: float(data["beta1"]) < 1 and float(data["beta2"]) < 1,
        ),
    )


@tagged_union
class Optimizer(Strict):
    """What turns gradients into steps. Weight decay is applied to matrices only."""

    type: Literal["AdamW"] = "AdamW"
    """Which optimizer."""
    learning_rate: DecimalString = "1e-3"
    """Peak learning rate, reached after the warm-up."""
    weight_decay: DecimalString = "0.1"
    """Decoupled weight decay."""
    gradient_clip_norm: DecimalString = "1.0"
    """Largest global gradient norm; larger gradients are scaled down to it. "0" switches clipping off."""
    adam_w: AdamW | None = None
    """Settings of AdamW. None means its defaults."""


class Schedule(Strict):
    """The learning rate of each step."""

    type: Literal["Cosine"] = "Cosine"
    """Cosine: linear warm-up, then cosine decay to the last step (SGDR without restarts, arXiv 1608.03983)."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**8)] = 0
    """Steps of linear warm-up from 0 to learningRate."""
    min_learning_rate: DecimalString = "0"
    """Learning rate at the last step."""
