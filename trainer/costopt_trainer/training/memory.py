"""What a model's layers keep from their forward to their backward pass, as `recipe.memory` says.

    save_memory    prepares a model, in place; names of parameters and bits of results stay

Activation checkpointing (Chen et al., arXiv 1604.06174): a layer keeps what went into it, and computes the rest again
when its backward pass needs it, with the same random numbers.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from costopt.schema.memory import Memory
from costopt_trainer.models.family import LayeredModel

_CHUNKED = {"Auto": None, "Always": True, "Never": False}

_KEPT = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::convolution"}
_KEPT_PREFIX = "aten::_scaled_dot_product_"
"""What selective checkpointing does not compute twice: most of a layer's work, and a part of what it keeps."""

_Contexts = Callable[[], tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]]


def save_memory(model: LayeredModel, memory: Memory) -> None:
    """Have `model` compute its loss and its layers as `memory` says."""
    model.chunked_loss = _CHUNKED[memory.chunked_loss]
    if memory.activation_checkpointing == "None":
        return
    for block in model.blocks():
        _recompute(block, selective=memory.activation_checkpointing == "Selective")


class Recomputed:
    """Comes before the class of a module: its forward pass is computed again when its backward pass needs it."""

    contexts: _Contexts
    selective: bool
    compiled_own: Callable[..., Any] | None = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As the module's own."""
        own = self.compiled_own or super().forward  # type: ignore[misc]
        if not torch.is_grad_enabled():
            return own(*inputs, **named)
        return checkpoint(own, *inputs, use_reentrant=False, context_fn=self.contexts, **named)

    def compile_by(self, compiler: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Have the forward pass compiled: what is kept selectively only the compiler can tell of what it compiles; else
        the layer by itself, for the compiler would keep more than its input."""
        if self.selective:
            self.forward = compiler(self.forward)  # type: ignore[method-assign]
        else:
            self.compiled_own = compiler(super().forward)  # type: ignore[misc]


def _recompute(block: nn.Module, *, selective: bool) -> None:
    contexts: _Contexts = partial(create_selective_checkpoint_contexts, _policy) if selective else noop_context_fn
    counting = [module for module in block.modules() if isinstance(module, _NormBase)]
    # Another class and not a wrapper, so that parameters keep their names; as FSDP2 does it.
    kind = type(block)
    block.__class__ = type(f"Recomputed{kind.__name__}", (Recomputed, kind), {})
    recomputed = cast(Recomputed, block)
    recomputed.contexts = partial(_without_counting_twice, contexts, counting) if counting else contexts
    recomputed.selective = selective


def _policy(_context: Any, operator: Any, *_inputs: Any, **_named: Any) -> CheckpointPolicy:
    name = operator._schema.name  # noqa: SLF001
    keep = name in _KEPT or name.startswith(_KEPT_PREFIX)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _without_counting_twice(contexts: _Contexts, norms: list[_NormBase]) -> Any:
    """`contexts`, where computing again does not update the moving averages of `norms` (batch norm) again."""
    forward, again = contexts()

    @contextlib.contextmanager
    def computing_again() -> Iterator[None]:
        kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            with again:
                yield
        finally:
            for norm, momentum, count in kept:
                norm.momentum, norm.num_batches_tracked = momentum, count

    return forward, computing_again()
