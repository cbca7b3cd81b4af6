"""A pass that does not count, before the first that does."""

from collections.abc import Sequence

from torch.amp.grad_scaler import GradScaler

from costopt_trainer.training.parallel.strategy import Batch, GoOn, Strategy


def rehearse(
    strategy: Strategy,
    batches: Sequence[Batch],
    scaler: GradScaler,
    go_on: GoOn = lambda: True,
    *,
    as_in_a_step: bool = False,
) -> None:
    """One pass forward and backward whose gradients are dropped, before the first step that counts.

    DDP orders its buckets after the first backward pass, and the order in which floats are summed hangs on that: the
    first step after a resume would differ in its last bits from the same step of an undisturbed run (with three ranks
    or more). In eval mode it leaves no trace, nor is a random number drawn. A pipeline learns its shapes meanwhile.

    With `as_in_a_step` it is in training mode, so that compilers see what they will be asked for; then the caller puts
    random numbers and buffers back.
    """
    strategy.module.train(as_in_a_step)
    strategy.accumulate_gradients(batches, 0.0, scaler, go_on)
    strategy.module.train()
    strategy.module.zero_grad(set_to_none=True)
