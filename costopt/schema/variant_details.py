"""The whole report on a variant, in report.json beside its weights: what the status has no room for.

VariantReport     a VariantStatus with details
Trial             what `auto` has tried
Sensitivity       which layers were kept in more bits, and why
VariantDetails    timings, footprints and confidence intervals
"""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import Count, ShortText, Strict
from costopt.schema.compression import Step
from costopt.schema.variant_report import EngineName, Measurement, MetricFigure, VariantFault, VariantStatus

MAX_TIMINGS = 128
"""Of the micro-batch under four engines; and for each of sixteen sizes a pass under four, prefill and decode."""

MAX_NOTES = 64

MAX_TRIALS = 128

MAX_LAYERS = 64
"""Of those whose sensitivity is told."""


class Timing(Strict):
    """Passes of one kind and size, timed in turn with those of the other model."""

    kind: Literal["Forward", "Prefill", "Decode"]
    """Forward: inputs to logits. Prefill: the same of a prompt, keeping what later tokens need. Decode: one more token
    for each sample of the batch."""
    batch_size: Count
    """Samples of a pass."""
    sequence_length: Count | None = None
    """Tokens of a sample; of Decode, those before the new one. None: samples are no tokens."""
    engine: EngineName
    """What ran it. Of a pass of the measured batch there is a row for each engine that was tried."""
    cached: bool | None = None
    """Of Decode: whether keys and values (or a state) of earlier tokens were kept. False: each token costs a pass over
    all before it."""
    runs: Count
    """Timed passes."""
    p50_microseconds: Count
    """Median time of a pass."""
    p95_microseconds: Count
    """What 95 of 100 passes did not exceed (nearest rank: of fewer than twenty, the longest)."""
    per_second: MetricFigure
    """What went through in a second of timed passes: tokens of language models (of Decode: new ones), else samples."""


class Footprint(Strict):
    """What one of the two needs."""

    disk_bytes: Count
    """Bytes of the saved weights."""
    weights_bytes: Count
    """Bytes of all parameters and buffers in memory, each tensor once."""
    peak_bytes: Count | None = None
    """The same and what a pass of the measured batch allocates beside, at most at one time. None: not known, because a
    pass would take too long, or as a note says."""
    macs_per_sample: Count | None = None
    """Multiplications, each with an addition, of matrices, convolutions and attention for one sample of that batch.
    None: none were seen, or a pass would take too long."""
    compile_milliseconds: Count | None = None
    """How long its engine took before the first pass was through; with the making of a graph that no file holds. None:
    it needs no compiling."""


class Side(Strict):
    """One of the two."""

    footprint: Footprint
    """What it needs."""
    timings: Annotated[list[Timing], Field(max_length=MAX_TIMINGS)]
    """How fast it is; the first is that of the status, under the fastest engine."""


class Interval(Strict):
    """A difference of the two, variant minus model, and a bootstrap interval around it: the samples or micro-batches
    are drawn anew, with replacement and the same for both, and the difference taken again; of all these the middle
    `confidencePercent` lie within (percentile method, Efron and Tibshirani 1993, chapter 13)."""

    metric: ShortText
    """Loss (nats), Accuracy, MacroF1 (shares), or a metric of the model's own."""
    model: MetricFigure
    """The trained model's."""
    variant: MetricFigure
    """The variant's."""
    change: MetricFigure
    """Their difference."""
    low: MetricFigure
    """Lower bound."""
    high: MetricFigure
    """Upper bound."""
    units: Count
    """How many were drawn from, and as many drawn each time."""
    unit: Literal["Sample", "MicroBatch"]
    """What was drawn."""


class VariantDetails(Strict):
    """What was measured beside the figures of the status."""

    threads: Count
    """Threads that a pass on a CPU may use, of both."""
    device: ShortText
    """Where it was measured: cpu or cuda."""
    variant: Side
    """The variant."""
    baseline: Side
    """The trained model, in the same process, in turn with the variant."""
    quality: Annotated[list[Interval], Field(max_length=16)]
    """How the two differ on held-out samples."""
    resamples: Count
    """Draws of each interval."""
    confidence_percent: Count = 95
    """Of each interval."""
    notes: Annotated[list[ShortText], Field(max_length=MAX_NOTES)] = Field(default_factory=list)
    """What could not be measured, and why, and what must be known to read the figures."""


class Trial(Strict):
    """A list of steps that `auto` has tried, with a part or all of the training, samples and time for measuring."""

    recipe: ShortText
    """The steps in a few words."""
    steps: Annotated[list[Step], Field(max_length=8)]
    """The same in the manifest's words, with as many optimizer steps as were taken."""
    rung: Count
    """From 1. Of the last rung all is in full, and the variant is made."""
    milliseconds: Count
    """What it took."""
    making_milliseconds: Count = 0
    """Of these, what its steps took."""
    measured: Measurement | None = None
    """The model that they made. None: they were refused."""
    baseline: Measurement | None = None
    """The trained model, beside it."""
    faults: Annotated[list[VariantFault], Field(max_length=5)] = Field(default_factory=list)
    """Bounds that it does not keep."""
    distance: MetricFigure | None = None
    """How far it is from its bounds, as the sum of the shares by which it misses them; 0: it keeps all."""
    refused: ShortText | None = None
    """Why the steps cannot be applied to this model, or measured."""
    pareto: bool = False
    """Whether no other trial of its rung is at least as good in quality, latency and bytes, and better in one."""


class LayerSensitivity(Strict):
    """What a layer's fewer bits do to the loss."""

    layer: ShortText
    """Its name in the model."""
    loss_increase: MetricFigure
    """Mean loss (nats per target) with this layer alone in fewer bits, minus that of the whole model."""
    kept: bool
    """Whether it was left whole, or has 8 bits in place of 4."""


class Sensitivity(Strict):
    """Which layers a Quantize step has kept, and why: each was given its fewer bits alone."""

    scheme: ShortText
    """Those bits."""
    samples: Count
    """Samples that the losses are over."""
    samples_of: Literal["HeldOut", "Training"]
    """HeldOut: held out from training, and none of those that judge the variant. Training: no others are left."""
    loss: MetricFigure
    """Mean loss of the whole model on them."""
    layers: Annotated[list[LayerSensitivity], Field(max_length=MAX_LAYERS)]
    """Those with the largest increase, the largest first."""
    layers_measured: Count
    """All."""
    layers_kept: Count
    """Of these."""


class VariantReport(VariantStatus):
    """report.json: the status' part, and the details."""

    details: VariantDetails | None = None
    """None: an earlier version measured none."""
    tried: Annotated[list[Trial], Field(max_length=MAX_TRIALS)] = Field(default_factory=list)
    """What `auto` has tried, in order."""

    sensitivity: Sensitivity | None = None
    """Of the step with `keepLayersPercent`, if there is one."""

    def in_short(self) -> VariantStatus:
        """The status' part."""
        return VariantStatus.model_validate({name: getattr(self, name) for name in VariantStatus.model_fields})
