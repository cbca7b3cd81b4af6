"""What a variant's replica says of the model it made: measured, compared, and loaded again."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import Count, Figure, Name, ShortText, Strict

Target = Literal["Token", "MaskedToken", "Sample"]

METRIC_PATTERN = r"^[a-z][A-Za-z0-9]{0,31}$"
"""Of the names of metrics of a model's own."""
MAX_METRICS = 8
MetricFigure = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,3})?$", max_length=24)]
"""A report must fit into a pod's termination message with all of them, twice."""

EngineName = Literal["TorchEager", "TorchCompiled", "TorchQuantized"]


class Measurement(Strict):
    """A variant or the baseline, measured in the same process."""

    size_bytes: Count
    """Bytes of the saved weights on disk."""
    parameters: Count
    """Parameters."""
    nonzero_permille: Annotated[int, Field(ge=0, le=1000)]
    """Parameters that are not zero, in thousandths."""
    latency_microseconds: Count
    """Median time of one forward pass of one sample batch."""
    validation_loss: Figure
    """Loss on the held-out split, nats per token (or per sample, for images)."""
    validation_accuracy_permille: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Held-out samples classified correctly, in thousandths; None of what is no classifier."""
    validation_macro_f1_permille: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Mean of the classes' F1 scores on held-out samples, in thousandths; None of what is no classifier."""
    metrics: dict[ShortText, MetricFigure] = Field(default_factory=dict, max_length=MAX_METRICS)
    """Metrics of the model's own (`model.type` Import) by name: their mean over held-out samples."""
    engine: EngineName | None = None
    """What ran it: the fastest of those that were tried on this machine. TorchEager: torch's kernels one by one.
    TorchCompiled: torch.compile. TorchQuantized: torch's own 8-bit kernels (FBGEMM, oneDNN). None: an earlier version
    did not tell."""


class VariantFault(Strict):
    """Why nobody would deploy a variant."""

    reason: Literal["SlowerAndNotSmaller", "Slower", "NoBetterThanGuessing"]
    """SlowerAndNotSmaller: than the model. Slower: though its steps are there for speed. NoBetterThanGuessing: its loss
    is not below that of guessing each target by how frequent it is."""
    message: Annotated[str, StringConstraints(pattern=r"^[ !#-\[\]-~]+$", max_length=160)]
    """One sentence with the numbers."""


class VariantStatus(Strict):
    """One compressed form of the model, and how it compares."""

    name: Name
    """Name of the variant."""
    measured: Measurement
    """The variant."""
    baseline: Measurement
    """The uncompressed model, measured in the same process, interleaved."""
    size_ratio: Figure
    """Baseline bytes divided by the variant's: larger is better."""
    speedup: Figure
    """Baseline latency divided by the variant's: larger is better."""
    validation_loss_increase: Figure
    """The variant's validation loss minus the baseline's: smaller is better."""
    artifact: Annotated[str, StringConstraints(pattern=r"^[ !#-\[\]-~]+$", max_length=128)]
    """Folder of the artifact, relative to the job's storage."""
    reloaded: bool
    """True: a fresh process loaded the artifact and gave the same output."""
    trivial_loss: Figure | None = None
    """Loss of guessing each held-out target by how frequent it is there: their entropy, in the losses' unit."""
    loss_per: Target | None = None
    """What the losses are nats per: a token, one that was hidden, or a sample. None: an earlier version did not say."""
    bytes_per_token: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?$", max_length=16)] | None = None
    """Bytes of text per held-out token, by which losses become bits per byte. None where they are not of each token."""
    validation_samples: Count | None = None
    """Held-out samples that both losses are over: fewer than asked for where they would have taken too long."""
    faults: Annotated[list[VariantFault], Field(max_length=3)] = Field(default_factory=list)
    """What speaks against deploying it. Empty: nothing that was measured."""
