"""An exponential moving average of the weights: what is evaluated, and what becomes the trained model.

AveragedWeights    the averages of what this rank holds, one more copy of it

After step t an average is  d average + (1 - d) weight,  where d is the decay asked for, or (1 + t) / (10 + t) while
that is less (as TensorFlow's ExponentialMovingAverage has it), so that the initial weights are soon forgotten. The
moving averages of batch norm are averaged likewise: those of the weights as they were would not fit the average.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from costopt.schema.optimization import Ema
from costopt_trainer.training.parallel.shards import local
from costopt_trainer.training.parallel.strategy import Strategy


class AveragedWeights:
    """The averages of the parameters that are trained, and of buffers, by name; empty without settings."""

    def __init__(self, settings: Ema | None, strategy: Strategy) -> None:
        """They begin as the weights are now."""
        self._decay = 0.0 if settings is None else float(settings.decay)
        self._strategy = strategy
        module = strategy.module
        stored = module.state_dict().keys()
        trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        counted = {name: one for name, one in module.named_buffers() if one.is_floating_point() and name in stored}
        self._weights: dict[str, Tensor] = {} if settings is None else {**trained, **counted}
        self.tensors: dict[str, Tensor] = {name: one.detach().clone() for name, one in self._weights.items()}
        """What a checkpoint holds of them, shared out as the weights are."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1. No sync point."""
        if not self.tensors:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [local(self._weights[name]) for name in self.tensors]
        torch._foreach_lerp_([local(average) for average in self.tensors.values()], weights, 1 - decay)

    @contextmanager
    def in_place(self, before_change: Callable[[], None]) -> Iterator[None]:
        """The model computes with the averages; `before_change` is called before its weights change."""
        if not self.tensors:
            yield
            return
        before_change()
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def load(self, found: Mapping[str, Tensor], *, were_kept: bool) -> None:
        """Take over what a checkpoint holds, whose training kept averages or not: then they begin as the weights are.

        Raises ValueError if it holds others.
        """
        begin = self._weights if not were_kept else found
        if missing := self.tensors.keys() - begin.keys():
            raise ValueError(f"there is no average of {min(missing)}")
        for name, average in self.tensors.items():
            local(average).copy_(local(begin[name]))

    @torch.no_grad()
    def _exchange(self) -> None:
        """Weights and averages, one at a time: in the memory that each has, for others refer to that of the weights."""
        for name, average in self.tensors.items():
            weight, kept = local(self._weights[name]), local(average)
            before = weight.clone()
            weight.copy_(kept)
            kept.copy_(before)
        self._strategy.weights_changed()
