"""AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from costopt.schema import optimization
from costopt.schema.optimization import Optimizer
from costopt_trainer.training.optimizers.factory import OptimizerFactory


class AdamWFactory:
    """torch's fused AdamW."""

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """One kernel for all parameters, which also skips the step by itself when FP16 gradients overflowed."""
        own = settings.adam_w or optimization.AdamW()
        betas = (float(own.beta1), float(own.beta2))
        return torch.optim.AdamW(groups, lr=float(settings.learning_rate), betas=betas, fused=True)

    def state_shapes(self, parameter: Tensor) -> Mapping[str, torch.Size]:
        """Two moments, and the number of steps as a float."""
        return {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": torch.Size()}


FACTORY: OptimizerFactory = AdamWFactory()
