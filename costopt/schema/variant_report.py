"""What a variant's replica says of the model it made: measured, compared, and loaded again.

Search           how its steps were found
ParetoRow        what no other steps beat
VariantStatus    in the job's status, where room is scarce; the whole is a VariantReport (variant_details.py)
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import DESCRIBED_ELSEWHERE, Count, Currency, Figure, Name, ShortText, Strict

Target = Literal["Token", "MaskedToken", "Sample"]

METRIC_PATTERN = r"^[a-z][A-Za-z0-9]{0,31}$"
"""Of the names of metrics of a model's own."""
MAX_METRICS = 8
MetricFigure = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,3})?$", max_length=24)]
"""A report must fit into a pod's termination message with all of them, twice."""

EngineName = Literal["TorchEager", "TorchCompiled", "TorchQuantized", "OnnxRuntime"]

QualityMetric = Literal["Loss", "Accuracy", "MacroF1"]
CLASS_METRICS: tuple[QualityMetric, ...] = ("Accuracy", "MacroF1")
"""Of classifiers only."""


class Measurement(Strict):
    """A variant or the baseline, measured in the same process."""

    size_bytes: Count
    """Bytes of the saved weights on disk; of a variant that is kept as an ONNX graph, of that."""
    parameters: Count
    """Parameters."""
    nonzero_permille: Annotated[int, Field(ge=0, le=1000)]
    """Parameters that are not zero, in thousandths."""
    latency_microseconds: Count
    """Median time of one forward pass of one sample batch."""
    latency_p95_microseconds: Count | None = None
    """What 95 of 100 such passes did not exceed."""
    validation_loss: MetricFigure
    """Loss on the held-out split, nats per token (or per sample, for images)."""
    validation_accuracy_permille: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Held-out samples classified correctly, in thousandths; None of what is no classifier."""
    validation_macro_f1_permille: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Mean of the classes' F1 scores on held-out samples, in thousandths; None of what is no classifier."""
    metrics: dict[ShortText, MetricFigure] = Field(default_factory=dict, max_length=MAX_METRICS)
    """Metrics of the model's own (`model.type` Import) by name: their mean over held-out samples."""
    engine: EngineName | None = None
    """What ran it: the fastest of those that were tried on this machine. TorchEager: torch's kernels one by one.
    TorchCompiled: torch.compile. TorchQuantized: torch's own 8-bit kernels (FBGEMM, oneDNN). OnnxRuntime: onnxruntime.
    None: an earlier version did not tell."""


class QualityChange(Strict):
    """How the task's own metric differs from the model's on the same samples."""

    metric: QualityMetric
    """Accuracy of a classifier, else Loss."""
    change: MetricFigure
    """The variant's minus the model's: nats, or a share of samples."""
    low: MetricFigure
    """Lower bound of it, with 95 percent confidence."""
    high: MetricFigure
    """Upper bound."""


class VariantFault(Strict):
    """Why a variant is rejected."""

    reason: Literal[
        "SlowerAndNotSmaller", "Slower", "NotSmaller", "QualityDropped", "LossIncreased", "NoBetterThanGuessing"
    ]
    """SlowerAndNotSmaller: than the model. NoBetterThanGuessing: its loss is not below that of guessing each target by
    how frequent it is. The others: a bound of `accept` or its default."""
    message: Annotated[str, StringConstraints(pattern=r"^[ !#-\[\]-~]+$", max_length=128)]
    """One sentence with the numbers."""


MAX_PARETO = 8
"""Lists of steps that a status has room for."""


class ParetoRow(Strict):
    """A list of steps that no other one beats."""

    steps: Annotated[str, StringConstraints(pattern=r"^[ !#-\[\]-~]+$", max_length=96)]
    """In a few words."""
    latency_microseconds: Count
    """Of a pass."""
    size_bytes: Count
    """On disk."""
    quality_drop_percent: MetricFigure
    """Of the model's accuracy, or by how much the loss rose; below 0: it is better."""


class Search(Strict):
    """How `auto` found the steps."""

    trials: Count
    """Lists of steps that were tried."""
    seconds: Count
    """What that took, also in earlier attempts."""
    chosen: Annotated[str, StringConstraints(pattern=r"^[ !#-\[\]-~]+$", max_length=96)]
    """The steps in a few words."""
    payback_batches: Count | None = None
    """Passes after which the time saved is that of the search. None: never."""
    list_cost: Figure | None = None
    """What the variant's stage has cost, all attempts and start-ups too, at the bill's prices. None: unknown."""
    currency: Currency | None = None
    """Of that cost."""
    payback_batches_by_cost: Count | None = None
    """Passes after which the time saved, at the price of its pod, is worth that cost. None: never, or no cost is known.
    """
    pareto: Annotated[list[ParetoRow], Field(max_length=MAX_PARETO)] = Field(default_factory=list)
    """What no other list that was tried is as good as in latency, bytes and quality, each as measured last."""


class VariantStatus(Strict):
    """One compressed form of the model, and how it compares."""

    name: Name
    """Name of the variant."""
    measured: Measurement
    """The variant."""
    baseline: Annotated[Measurement, Field(json_schema_extra=DESCRIBED_ELSEWHERE)]
    """The uncompressed model, measured in the same process, interleaved: see docs/reference.md."""
    size_ratio: MetricFigure
    """Baseline bytes divided by the variant's: larger is better."""
    speedup: MetricFigure
    """Baseline latency divided by the variant's: larger is better."""
    validation_loss_increase: Figure
    """The variant's validation loss minus the baseline's: smaller is better."""
    artifact: Annotated[str, StringConstraints(pattern=r"^[ !#-\[\]-~]+$", max_length=128)]
    """Folder of the artifact, relative to the job's storage."""
    reloaded: bool
    """True: a fresh process loaded the artifact and gave the same output."""
    trivial_loss: MetricFigure | None = None
    """Loss of guessing each held-out target by how frequent it is there: their entropy, in the losses' unit."""
    loss_per: Target | None = None
    """What the losses are nats per: a token, one that was hidden, or a sample."""
    bytes_per_token: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?$", max_length=16)] | None = None
    """Bytes of text per held-out token, by which losses become bits per byte. None where they are not of each token."""
    quality_change: QualityChange | None = None
    """Of the task's own metric. None: too few samples to tell."""
    validation_samples: Count | None = None
    """Held-out samples that both losses are over: fewer than asked for where they would have taken too long."""
    faults: Annotated[list[VariantFault], Field(max_length=5)] = Field(default_factory=list)
    """Why it is rejected. Empty: it is accepted."""
    verdict: Literal["Accepted", "Rejected"] | None = None
    """Whether it is what `accept` asks for."""
    search: Annotated[Search | None, Field(json_schema_extra=DESCRIBED_ELSEWHERE)] = None
    """How `auto` found the steps: see docs/reference.md."""
