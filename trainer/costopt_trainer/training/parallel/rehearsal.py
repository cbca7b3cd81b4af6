"""A pass that does not count, before the first that does."""

from collections.abc import Sequence

from torch.amp.grad_scaler import GradScaler

from costopt_trainer.training.parallel.strategy import Batch, GoOn, Strategy


def rehearse(strategy: Strategy, batches: Sequence[Batch], scaler: GradScaler, go_on: GoOn = lambda: True) -> None:
    """One pass forward and backward whose gradients are dropped, before the first step that counts.

    DDP orders its buckets after the first backward pass, and the order in which floats are summed hangs on that: the
    first step after a resume would differ in its last bits from the same step of an undisturbed run (with three ranks
    or more). In eval mode it leaves no trace, nor is a random number drawn. A pipeline learns its shapes meanwhile.
    """
    strategy.module.eval()
    strategy.accumulate_gradients(batches, 0.0, scaler, go_on)
    strategy.module.train()
    strategy.module.zero_grad(set_to_none=True)
