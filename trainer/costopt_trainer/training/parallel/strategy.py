"""What the loop asks of any way to share the work among ranks.

Strategy             the protocol
norm_of_gradients    of what one rank holds

`accumulate_gradients` leaves in `.grad` the gradient of the sum of token losses times the weight given, as if one
process had seen the whole batch; `forward` runs the whole model.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

Batch = tuple[Tensor, Tensor]
"""Inputs and targets of one micro-batch."""


GoOn = Callable[[], bool]


class Strategy(Protocol):
    """What the loop asks of either way to share the work."""

    module: nn.Module
    """What this rank holds of the model, under the names of the whole model."""
    data_rank: int
    """Which share of each batch this rank takes, of `data_size` equal shares."""
    data_size: int
    holds_loss: bool
    """True on a rank whose share of the loss counts."""
    saves_module: bool
    """True on a rank whose part of the model goes into checkpoints."""
    gradients_are_split: bool
    """True if no rank holds the gradients of the whole model."""

    def accumulate_gradients(
        self, batches: Sequence[Batch], weight: float, scaler: GradScaler, go_on: GoOn = lambda: True
    ) -> Tensor | None:
        """Add to `.grad` the gradient of the global batch's sum of token losses times `weight`, scaled by `scaler`.

        Returns this rank's sum of token losses, float64 on its device, without waiting for it. `go_on` is asked between
        micro-batches, if they come one by one; if it says no, on all ranks at once, the answer is None and `.grad` is
        of no use.
        """

    def forward(self, inputs: Tensor) -> Tensor | None:
        """The whole model's logits for `inputs`; None on a rank that does not hold its end."""

    def gradient_norm(self) -> Tensor:
        """L2 norm of the whole model's gradient, 0-dim, the same on all ranks."""

    def share_buffers(self) -> None:
        """Give all ranks the same buffers, before these are evaluated."""


def norm_of_gradients(module: nn.Module) -> Tensor:
    """L2 norm of the gradients that `module` holds, 0-dim on their device."""
    return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
