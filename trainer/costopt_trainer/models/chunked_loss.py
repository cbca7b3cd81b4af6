"""Cross-entropy over a large vocabulary, without ever holding the logits of all tokens.

    head_loss_sum    hidden activations, head and targets -> loss; in chunks where the logits would be large
    is_plain         whether a head can come in chunks
    each_chunk       the logits themselves, chunk after chunk, for an evaluation

Logits are by far the largest tensor of a language model: (B, T, V), in the loss as float32, and again as the gradient.
In chunks, some tokens' logits become their loss and at once the gradients of activations and weights; what is kept are
these, which are as large as what they belong to. Nothing is computed twice.

Shape suffixes: N = targets of a micro-batch, C = targets of a chunk, D = hidden width, V = vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from costopt_trainer.models.loss import IGNORED_TARGET, Tell, loss_sum

LARGE_LOGITS = 2**26
"""A micro-batch of so many logits computes them in chunks: 256 MiB in float32, and as much for their gradient."""


Use = Callable[[Tensor, Tensor], None]
"""What is done with logits (..., K) and their targets int64 (...)."""


def head_loss_sum(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    chunked: bool | None = None,
    once: bool = True,
    smoothing: float = 0.0,
    tell: Tell | None = None,
) -> Tensor:
    """As `loss_sum(head(hidden), targets, smoothing, tell)`: (..., D) and int64 (...) -> 0-dim float32.

    `chunked` None: where there are LARGE_LOGITS or more. Only a plain linear layer comes in chunks: one with an
    adapter, or whose weights are shared out among ranks, computes its logits in its own way.

    `once`: gradients are taken once, in the memory that they were computed in. False: as often as asked for.
    """
    if not (isinstance(head, nn.Linear) and _comes_in_chunks(hidden, head, chunked)):
        return loss_sum(head(hidden), targets, smoothing, tell)
    weight: Tensor = head.weight
    bias: Tensor | None = head.bias
    if not torch.is_grad_enabled():
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    loss: Tensor = _LinearCrossEntropy.apply(
        hidden.flatten(0, -2), weight, bias, targets.flatten(), smoothing, once, tell
    )
    return loss


def each_chunk(hidden: Tensor, head: nn.Module, targets: Tensor, use: Use, *, chunked: bool | None = None) -> None:
    """As `use(head(hidden), targets)`, in chunks where `head_loss_sum` has them: (C, K) and int64 (C,) each time."""
    if not (isinstance(head, nn.Linear) and _comes_in_chunks(hidden, head, chunked)):
        use(head(hidden), targets)
        return
    hidden_ND, targets_N = hidden.flatten(0, -2), targets.flatten()
    size = chunk_size(len(targets_N), *head.weight.shape)
    for hidden_CD, targets_C in zip(hidden_ND.split(size), targets_N.split(size), strict=True):
        use(head(hidden_CD), targets_C)


def chunk_size(num_targets: int, vocabulary: int, width: int) -> int:
    """Targets of a chunk: as many as make its logits about as large as all hidden activations, a power of two."""
    wanted = -(-num_targets * width // vocabulary)
    return min(num_targets, max(32, 1 << (wanted - 1).bit_length()))


def is_plain(head: nn.Module) -> bool:
    """Whether `head` does nothing but multiply by a matrix that is here as a whole: others compute in their own way."""
    return type(head) is nn.Linear and type(head.weight) is nn.Parameter and not head._forward_hooks  # noqa: SLF001


def _comes_in_chunks(hidden: Tensor, head: nn.Linear, chunked: bool | None) -> bool:
    if chunked is None:
        chunked = hidden.shape[:-1].numel() * head.out_features >= LARGE_LOGITS
    return chunked and is_plain(head)


class _LinearCrossEntropy(torch.autograd.Function):
    """Linear layer and sum of cross-entropies; gradients are computed in the forward pass."""

    @staticmethod
    def forward(  # noqa: PLR0917  torch passes them so
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        smoothing: float,
        once: bool,
        tell: Tell | None,
    ) -> Tensor:
        """0-dim float32; the arguments as their suffixes say, targets int64."""
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        inputs_ND, matrix_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        need_hidden, need_weight, need_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden_ND) if need_hidden else None
        # Sums over chunks in float32, whatever the chunks are computed in.
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(weight_VD[:, 0], dtype=torch.float32) if need_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        size = chunk_size(len(targets_N), *weight_VD.shape)
        for start in range(0, len(targets_N), size):
            part = slice(start, start + size)
            targets_C, inputs_CD = targets_N[part], inputs_ND[part]
            with torch.autocast(device, enabled=False):
                logits_CV = F.linear(inputs_CD, matrix_VD, None if bias_V is None else bias_V.to(dtype)).float()
                total += loss_sum(logits_CV, targets_C, smoothing, tell)
                if not (need_hidden or need_weight or need_bias):
                    continue
                grad_CV = _gradient_of_loss(logits_CV, targets_C, smoothing)
                if grad_bias is not None:
                    grad_bias += grad_CV.sum(dim=0)
                grad_CV = grad_CV.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = grad_CV @ matrix_VD
                if grad_weight is not None:
                    if dtype == torch.float32:
                        grad_weight.addmm_(grad_CV.T, inputs_CD)
                    else:
                        grad_weight += grad_CV.T @ inputs_CD
        ctx.once, ctx.gradients = once, [grad_hidden, grad_weight, grad_bias]
        ctx.dtypes = [hidden_ND.dtype, weight_VD.dtype, weight_VD.dtype if bias_V is None else bias_V.dtype]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the forward pass times that of the loss; once, in place: they are large."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of a chunked loss can be taken only once")
        scaled = [
            None if gradient is None else (gradient.mul_ if ctx.once else gradient.mul)(grad_loss).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        if ctx.once:
            ctx.gradients = None
        return *scaled, None, None, None, None


def _gradient_of_loss(logits_CV: Tensor, targets_C: Tensor, smoothing: float) -> Tensor:
    """The gradient of `loss_sum`, in the place of the logits: probabilities, less one at the target.

    With smoothing a part of that one is spread over all of them.
    """
    grad_CV = logits_CV.sub_(logits_CV.logsumexp(dim=1, keepdim=True)).exp_()
    counts_C1 = (targets_C != IGNORED_TARGET).unsqueeze(1)
    at_C1 = targets_C.unsqueeze(1).where(counts_C1, 0)
    grad_CV.scatter_add_(1, at_C1, torch.full_like(at_C1, smoothing - 1, dtype=grad_CV.dtype))
    if smoothing:
        grad_CV.sub_(smoothing / grad_CV.shape[1])
    return grad_CV.mul_(counts_C1)
