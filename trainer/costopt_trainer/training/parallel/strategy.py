"""What the loop asks of any way to share the work among ranks.

Strategy             the protocol
gradients_of, clip_gradients, clip_values

`accumulate_gradients` leaves in `.grad` the gradient of the sum of token losses times the weight given, as if one
process had seen the whole batch; `each_logits` runs the whole model.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from costopt_trainer.models.chunked_loss import Use
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.storage.tensor_pieces import Shard
from costopt_trainer.training.parallel.shards import local

Batch = tuple[Tensor, Tensor]
"""Inputs and targets of one micro-batch."""


GoOn = Callable[[], bool]


class Strategy(Protocol):
    """What the loop asks of any way to share the work."""

    module: LayeredModel
    """What this rank holds of the model, under the names of the whole model."""
    data_rank: int
    """Which share of each batch this rank takes, of `data_size` equal shares."""
    data_size: int
    holds_loss: bool
    """True on a rank whose share of the loss counts."""
    gradients_are_split: bool
    """True if no rank holds the gradients of the whole model."""
    forward_needs_all_ranks: bool
    """True if all ranks must call `each_logits` equally often, whatever their shares."""

    def accumulate_gradients(
        self, batches: Sequence[Batch], weight: float, scaler: GradScaler, go_on: GoOn = lambda: True
    ) -> Tensor | None:
        """Add to `.grad` the gradient of the global batch's sum of token losses times `weight`, scaled by `scaler`.

        Returns this rank's sum of token losses, float64 on its device, without waiting for it. `go_on` is asked between
        micro-batches, if they come one by one; if it says no, on all ranks at once, the answer is None and `.grad` is
        of no use.
        """

    def each_logits(self, inputs: Tensor, targets: Tensor, use: Use) -> None:
        """Call `use` with the model's logits for `inputs` and their targets: some at a time where the loss has so.

        Not on a rank that does not hold them, or only copies of them.
        """

    def gradient_norm(self) -> Tensor:
        """L2 norm of the whole model's gradient, 0-dim, the same on all ranks."""

    def share_buffers(self) -> None:
        """Give all ranks the same buffers, before these are evaluated."""

    def weights_changed(self) -> None:
        """Forget what was gathered of the weights: they were changed elsewhere than in an optimizer's step."""

    def to_save(self, tensors: dict[str, Tensor]) -> dict[str, Tensor | Sequence[Shard]]:
        """What this rank writes into a checkpoint, of tensors by the name of their parameter or buffer (and more)."""


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients that there are, in the order of `parameters`."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale all gradients down so that their norm, which is `norm` now, is at most `max_norm`. No sync point."""
    gradients = [local(gradient) for gradient in gradients_of(parameters)]
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)  # as torch.nn.utils.clip_grads_with_norm_
    if gradients:
        torch._foreach_mul_(gradients, factor.to(gradients[0].device))


def clip_values(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Bring each number of all gradients into [-largest, largest]. No rank needs another for it, and no sync point."""
    gradients = [local(gradient) for gradient in gradients_of(parameters)]
    if gradients:
        torch._foreach_clamp_min_(gradients, -largest)
        torch._foreach_clamp_max_(gradients, largest)
