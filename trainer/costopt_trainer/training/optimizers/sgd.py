"""Stochastic gradient descent, with momentum."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from costopt.schema import optimization
from costopt.schema.optimization import Optimizer
from costopt_trainer.training.optimizers.factory import Kept, OptimizerFactory, PlainState


class SGDFactory(PlainState):
    """torch's SGD, not fused: a fused first step that FP16 skips leaves a momentum that nobody has written."""

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        own = settings.sgd or optimization.SGD()
        return torch.optim.SGD(
            groups, lr=float(settings.learning_rate), momentum=float(own.momentum), nesterov=own.nesterov
        )

    def kept(self, settings: Optimizer, parameter: Tensor, *, hidden: bool) -> Mapping[str, Kept]:  # noqa: ARG002
        """The momentum, if there is one."""
        own = settings.sgd or optimization.SGD()
        return {"momentum_buffer": Kept.like(parameter)} if float(own.momentum) > 0 else {}


FACTORY: OptimizerFactory = SGDFactory()
