"""AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from costopt.schema import optimization
from costopt.schema.optimization import Optimizer
from costopt_trainer.training.optimizers.factory import Kept, OptimizerFactory, PlainState


class AdamWFactory(PlainState):
    """torch's fused AdamW."""

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """One kernel for all parameters, which also skips the step by itself when FP16 gradients overflowed."""
        return adam_w(settings, settings.adam_w, groups)

    def kept(self, settings: Optimizer, parameter: Tensor, *, hidden: bool) -> Mapping[str, Kept]:  # noqa: ARG002
        """Two moments, and the number of steps."""
        return moments(parameter)


def adam_w(settings: Optimizer, own: optimization.AdamW | None, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """AdamW with its own settings; None: with the defaults of these."""
    own = own or optimization.AdamW()
    betas = (float(own.beta1), float(own.beta2))
    return torch.optim.AdamW(groups, lr=float(settings.learning_rate), betas=betas, fused=True)


def moments(parameter: Tensor) -> dict[str, Kept]:
    """What AdamW keeps of a parameter."""
    return {"exp_avg": Kept.like(parameter), "exp_avg_sq": Kept.like(parameter), "step": Kept.count()}


FACTORY: OptimizerFactory = AdamWFactory()
