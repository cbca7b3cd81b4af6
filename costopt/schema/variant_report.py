"""What a variant's replica says of the model it made: measured, compared, and loaded again."""

from typing import Annotated

from pydantic import Field

from costopt.schema.base import Count, Figure, Name, ShortText, Strict


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
    """Loss on the held-out split, nats per token (or per image)."""
    compiled: bool
    """True when latency was measured with torch.compile."""


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
    artifact: ShortText
    """Folder of the artifact, relative to the job's storage."""
    reloaded: bool
    """True: a fresh process loaded the artifact and gave the same output."""
