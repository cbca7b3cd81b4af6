"""What a row of the table of optimizers fulfils."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from costopt.schema.optimization import Optimizer


class OptimizerFactory(Protocol):
    """Makes optimizers of one kind, and knows what they keep."""

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimizer over `groups`, each with its `params` and `weight_decay`.

        The training loop sets each group's `lr` before a step. With FP16 a gradient scaler calls `step`: it skips the
        step of an optimizer by reading a flag from the device, unless the optimizer takes the flag itself (fused ones).
        """

    def state_shapes(self, parameter: Tensor) -> Mapping[str, torch.Size]:
        """Name and shape of each floating-point tensor that is kept of `parameter` after a step."""
