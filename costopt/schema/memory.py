"""What the built-in trainer does to need less memory."""

from typing import Literal

from costopt.schema.base import Strict


class Memory(Strict):
    """What training does to need less memory on a device. Nothing here changes what is learned."""

    activation_checkpointing: Literal["None", "Selective", "Full"] = "None"
    """What is kept of each layer from its forward to its backward pass; the rest is computed again. None: everything.
    Selective: results of matrix products, convolutions and attention. Full: only what goes into the layer, for about a
    third more computation."""
    chunked_loss: Literal["Auto", "Always", "Never"] = "Auto"
    """Whether head and cross-entropy of a language model are computed for some tokens at a time, so that the logits of
    a micro-batch never exist as a whole. Auto: where there are 67,108,864 of them (256 MiB in FP32) or more. No effect
    on models without a vocabulary."""
    on_out_of_memory: Literal["HalveMicroBatch", "Fail"] = "HalveMicroBatch"
    """What to do where a micro-batch does not fit. HalveMicroBatch: halve batch.microBatchSize and double the
    accumulation, so that global batch and order of samples stay; remembered for later attempts. Fail: the attempt
    fails. A model with batch norm always fails, for it takes its statistics over a micro-batch."""
