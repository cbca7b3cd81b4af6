"""A global batch whose size is found by measuring: settings, and what is reported of it.

A separate field beside globalBatchSize, and not the word "auto" in its place: that stays a whole number with bounds, by
which every rule about ranks and micro-batches is checked, in Python and by the API server. Whatever is chosen is a
multiple of it, so what holds for it holds for the choice.
"""

from typing import Annotated

from pydantic import Field

from costopt.schema.base import Count, Figure, Strict


class AutoBatch(Strict):
    """Choosing the global batch by the gradient noise scale (McCandlish et al., arXiv 1812.06162): how many samples a
    step needs before more of them tell little that is new. Training begins with globalBatchSize, measures during some
    early steps, and goes on with the multiple of it that is closest to what was measured. totalSteps and the learning
    rate stay, so that a larger batch means more samples in all."""

    largest: Annotated[int, Field(ge=1, le=10**7)]
    """Most samples per step that may be chosen; globalBatchSize is the fewest."""
    after_steps: Annotated[int, Field(ge=0, le=10**8)] = 50
    """Steps before the measuring begins: at its very beginning a training needs the smallest batches."""
    measure_steps: Annotated[int, Field(ge=1, le=10**6)] = 50
    """Steps over which is measured. Each takes the time of one micro-batch more."""


class AutoBatchReport(Strict):
    """How large the global batch is, and why."""

    global_batch_size: Count
    """Samples per step from now on."""
    noise_scale: Figure | None = None
    """What was measured: samples at which noise and signal of the gradient are equally large. None: the signal was lost
    in the noise, and the largest batch was chosen."""
    measured_until_step: Count
    """Last step that was measured."""
