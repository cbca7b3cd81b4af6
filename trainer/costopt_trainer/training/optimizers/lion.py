"""Lion (Chen et al., arXiv 2302.06675, algorithm 2), which torch does not have.

direction = sign(beta1 mean + (1 - beta1) gradient)
weight   -= lr (direction + weight_decay weight)
mean      = beta2 mean + (1 - beta2) gradient
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from costopt.schema import optimization
from costopt.schema.optimization import Optimizer
from costopt_trainer.training.optimizers.factory import Kept, OptimizerFactory, PlainState
from costopt_trainer.training.parallel.shards import local


class Lion(torch.optim.Optimizer):
    """A few kernels for all parameters of a group. No element needs another, so each rank steps what it holds."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step by the gradients that are there; `closure` must be None."""
        if closure is not None:
            raise ValueError("Lion takes gradients as they are, and no closure")
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not given:
                continue
            for parameter in given:
                if not self.state[parameter]:
                    self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
            weights, gradients = [local(one) for one in given], [local(one.grad) for one in given]
            means = [local(self.state[parameter]["exp_avg"]) for parameter in given]
            beta1, beta2 = group["betas"]
            directions = torch._foreach_lerp(means, gradients, 1 - beta1)  # noqa: SLF001
            torch._foreach_sign_(directions)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, directions, alpha=-group["lr"])
            torch._foreach_lerp_(means, gradients, 1 - beta2)


class LionFactory(PlainState):
    """Our own."""

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        own = settings.lion or optimization.Lion()
        return Lion(groups, lr=float(settings.learning_rate), betas=(float(own.beta1), float(own.beta2)))

    def kept(self, settings: Optimizer, parameter: Tensor, *, hidden: bool) -> Mapping[str, Kept]:  # noqa: ARG002
        """The mean of gradients."""
        return {"exp_avg": Kept.like(parameter)}


FACTORY: OptimizerFactory = LionFactory()
