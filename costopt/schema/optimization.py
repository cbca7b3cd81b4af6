"""How the built-in trainer turns gradients into steps: optimizer, learning-rate schedule, and averages of weights."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

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


class SGD(Strict):
    """Stochastic gradient descent, with momentum."""

    momentum: DecimalString = "0.9"
    """How much of the sum of the gradients before is kept in each step; less than 1. "0": none, and no state."""
    nesterov: bool = False
    """Whether gradients are taken as if the momentum's step were taken already."""

    rules = (
        Rule(
            cel="double(self.momentum) < 1.0",
            message="momentum must be less than 1",
            holds=lambda data: float(data["momentum"]) < 1,
        ),
        Rule(
            cel="!self.nesterov || double(self.momentum) > 0.0",
            message="nesterov needs a momentum of more than 0",
            holds=lambda data: not data["nesterov"] or float(data["momentum"]) > 0,
        ),
    )


class Lion(Strict):
    """Lion (Chen et al., arXiv 2302.06675): steps of one size, in the direction of a mean of gradients. Its
    learningRate is 3 to 10 times less than AdamW's, its weightDecay as many times more."""

    beta1: DecimalString = "0.9"
    """How much of the mean of gradients so far is in the direction of a step; less than 1."""
    beta2: DecimalString = "0.99"
    """Decay of that mean; less than 1."""

    rules = (
        Rule(
            cel="double(self.beta1) < 1.0 && double(self.beta2) < 1.0",
            message="beta1 and beta2 must be less than 1",
            holds=lambda data: float(data["beta1"]) < 1 and float(data["beta2"]) < 1,
        ),
    )


class Adafactor(Strict):
    """Adafactor (Shazeer and Stern, arXiv 1804.04235): keeps of each matrix the mean squares of rows and columns only.
    Its learningRate is a share of the size of the weights (their root mean square); 1e-2 is usual."""

    beta2_decay: DecimalString = "0.8"
    """Step t counts t to the power of minus this in the means; at most 1."""
    clip_threshold: DecimalString = "1.0"
    """Largest root mean square of a step before the learning rate; at least 1."""

    rules = (
        Rule(
            cel="double(self.beta2Decay) <= 1.0 && double(self.clipThreshold) >= 1.0",
            message="beta2Decay must be at most 1, and clipThreshold at least 1",
            holds=lambda data: float(data["beta2Decay"]) <= 1 and float(data["clipThreshold"]) >= 1,
        ),
    )


class Muon(Strict):
    """Muon (Jordan et al. 2024; Liu et al., arXiv 2502.16982) for the matrices in the layers, AdamW for all else:
    embeddings, the head, gains and biases, kernels of convolutions. Steps are scaled so that learningRate and
    weightDecay are AdamW's."""

    momentum: DecimalString = "0.95"
    """Decay of the mean of gradients, which is what is made orthogonal; less than 1."""
    nesterov: bool = True
    """Whether this step's gradient counts once more in it."""
    newton_schulz_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Rounds of the iteration that makes a step orthogonal, in BF16."""
    adam_w: AdamW | None = None
    """Settings of AdamW for what is not Muon's. None means its defaults."""

    rules = (
        Rule(
            cel="double(self.momentum) < 1.0",
            message="momentum must be less than 1",
            holds=lambda data: float(data["momentum"]) < 1,
        ),
    )


class AdamW8bit(AdamW):
    """AdamW whose two moments are kept in 8 bits, in blocks of 256 numbers with a scale each (Dettmers et al., arXiv
    2110.02861): of parameters of at least 4,096 numbers in whole blocks, which are nearly all."""


class ParameterGroup(Strict):
    """Parameters that are stepped otherwise than the rest."""

    parameters: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(min_length=1, max_length=64)
    ]
    """Patterns of their names: `*` stands for any characters, `?` for one, `[ab]` for one of some. A pattern that no
    trained parameter matches is refused with some of the names there are."""
    learning_rate_factor: DecimalString = "1"
    """Times this is their learning rate, in each step."""
    weight_decay: DecimalString | None = None
    """Their weight decay, of all of them. None means as of the rest: the optimizer's for matrices, none for others."""


@tagged_union
class Optimizer(Strict):
    """What turns gradients into steps. Weight decay is applied to matrices only, unless a group says otherwise."""

    type: Literal["AdamW", "SGD", "Lion", "Adafactor", "Muon", "AdamW8bit"] = "AdamW"
    """Which optimizer. In bytes per weight, besides the weights themselves, they keep: AdamW 8, SGD 4 (0 without
    momentum), Lion 4, Adafactor nearly none, Muon 4 of matrices in the layers and 8 of all else, AdamW8bit 2."""
    learning_rate: DecimalString = "1e-3"
    """Peak learning rate, reached after the warm-up."""
    weight_decay: DecimalString = "0.1"
    """Decoupled weight decay; of SGD, part of the gradient (an L2 penalty)."""
    gradient_clip_norm: DecimalString | None = None
    """Largest global gradient norm; larger gradients are scaled down to it. "0" switches clipping off. None means
    "1.0", or no such clipping with gradientClipValue."""
    gradient_clip_value: DecimalString | None = None
    """Largest absolute value of each number in a gradient; larger ones are set to it. None means that values are not
    clipped."""
    groups: Annotated[list[ParameterGroup], Field(max_length=64)] | None = None
    """Parameters with settings of their own; of several groups that name a parameter, the first has it. None means
    none."""
    adam_w: AdamW | None = None
    """Settings of AdamW. None means its defaults."""
    sgd: SGD | None = None
    """Settings of SGD. None means its defaults."""
    lion: Lion | None = None
    """Settings of Lion. None means its defaults."""
    adafactor: Adafactor | None = None
    """Settings of Adafactor. None means its defaults."""
    muon: Muon | None = None
    """Settings of Muon. None means its defaults."""
    adam_w8bit: AdamW8bit | None = Field(default=None, alias="adamW8bit")
    """Settings of AdamW8bit. None means its defaults."""

    rules = (
        Rule(
            cel="!has(self.gradientClipNorm) || !has(self.gradientClipValue)",
            message="gradientClipNorm must not be set beside gradientClipValue: gradients are clipped in one way",
            holds=lambda data: "gradientClipNorm" not in data or "gradientClipValue" not in data,
        ),
        Rule(
            cel="!has(self.gradientClipValue) || double(self.gradientClipValue) > 0.0",
            message="gradientClipValue must be more than 0; leave it out to clip the norm",
            holds=lambda data: float(data.get("gradientClipValue", "1")) > 0,
        ),
    )

    @property
    def largest_norm(self) -> float:
        """The norm that gradients are scaled down to; 0 if they are not."""
        if self.gradient_clip_norm is None:
            return 1.0 if self.gradient_clip_value is None else 0.0
        return float(self.gradient_clip_norm)


class Ema(Strict):
    """An exponential moving average of the weights, which is what is evaluated and what becomes the trained model
    (Polyak and Juditsky 1992). It takes as much memory again as the weights do, and as much again in a checkpoint."""

    decay: DecimalString = "0.999"
    """How much of the average is kept in each step; less than 1. In step t it is at most (1 + t) / (10 + t), so that
    the initial weights are forgotten."""

    rules = (
        Rule(
            cel="double(self.decay) < 1.0",
            message="decay must be less than 1",
            holds=lambda data: float(data["decay"]) < 1,
        ),
    )


class ReduceOnPlateau(Strict):
    """When the learning rate is lowered: driven by the validation loss, evaluation by evaluation."""

    factor: DecimalString = "0.5"
    """By what the learning rate is multiplied each time; between 0 and 1."""
    patience_evaluations: Annotated[int, Field(ge=1, le=10**6)] = 3
    """After so many evaluations in a row without an improvement the rate is lowered, and they are counted anew; those
    of the warm-up do not count."""
    least_improvement: DecimalString = "0"
    """Smallest fall of the validation loss (nats) that counts as one, from the last evaluation that counted. "0": any
    fall counts."""

    rules = (
        Rule(
            cel="double(self.factor) > 0.0 && double(self.factor) < 1.0",
            message="factor must be more than 0 and less than 1",
            holds=lambda data: 0 < float(data["factor"]) < 1,
        ),
    )


class WarmupStableDecay(Strict):
    """Warm-up, a long stretch at learningRate, and a short decay (MiniCPM, arXiv 2404.06395)."""

    decay_steps: Annotated[int, Field(ge=1, le=10**8)] | None = None
    """Steps of the decay, the last ones. None means a tenth of totalSteps, or what the warm-up leaves of them."""
    decay_shape: Literal["Linear", "SquareRoot"] = "Linear"
    """Linear; SquareRoot: falls by the root of the decay's steps so far, fast at first (arXiv 2405.18392)."""


class OneCycle(Strict):
    """One long rise and one long fall, both half a cosine (Smith, arXiv 1803.09820); momentum stays as it is."""

    rise_percent: Annotated[int, Field(ge=1, le=99)] = 30
    """Percent of totalSteps in which the rate rises to learningRate."""
    start_divisor: Annotated[int, Field(ge=1, le=10**6)] = 25
    """The first step has learningRate divided by this."""


@tagged_union
class Schedule(Strict):
    """The learning rate of each step."""

    type: Literal["Cosine", "Linear", "Constant", "WarmupStableDecay", "OneCycle", "ReduceOnPlateau"] = "Cosine"
    """Cosine: linear warm-up, then cosine decay to the last step (SGDR without restarts, arXiv 1608.03983). Linear: the
    same with a straight line. Constant: warm-up, then learningRate. WarmupStableDecay: learningRate until a short decay
    at the end. OneCycle: a rise and a fall that share all steps. ReduceOnPlateau: warm-up, then learningRate, lowered
    whenever the validation loss no longer falls."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**8)] = 0
    """Steps of linear warm-up from 0 to learningRate. OneCycle has none: its rise is one."""
    min_learning_rate: DecimalString = "0"
    """Learning rate at the last step; of ReduceOnPlateau, below which it is not lowered. Constant has none: it does not
    fall."""
    warmup_stable_decay: WarmupStableDecay | None = None
    """Settings of WarmupStableDecay. None means its defaults."""
    one_cycle: OneCycle | None = None
    """Settings of OneCycle. None means its defaults."""
    reduce_on_plateau: ReduceOnPlateau | None = None
    """Settings of ReduceOnPlateau. None means its defaults."""

    rules = (
        Rule(
            cel="self.type != 'OneCycle' || self.warmupSteps == 0",
            message="warmupSteps must be 0 with OneCycle, whose rise is its warm-up: set oneCycle.risePercent",
            holds=lambda data: data["type"] != "OneCycle" or data["warmupSteps"] == 0,
        ),
        Rule(
            cel="self.type != 'Constant' || double(self.minLearningRate) == 0.0",
            message='minLearningRate must be "0" with Constant, which does not fall',
            holds=lambda data: data["type"] != "Constant" or float(data["minLearningRate"]) == 0,
        ),
    )
