"""Adafactor (Shazeer and Stern, arXiv 1804.04235)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from costopt.schema import optimization
from costopt.schema.optimization import Optimizer
from costopt_trainer.training.optimizers.factory import Kept, OptimizerFactory, PlainState


class AdafactorFactory(PlainState):
    """torch's, one parameter at a time: all at once would hold as much besides as there are weights.

    It reads two norms of each parameter from the device, and so waits for it.
    """

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        own = settings.adafactor or optimization.Adafactor()
        return torch.optim.Adafactor(
            groups,
            lr=float(settings.learning_rate),
            beta2_decay=-float(own.beta2_decay),
            d=float(own.clip_threshold),
        )

    def kept(self, settings: Optimizer, parameter: Tensor, *, hidden: bool) -> Mapping[str, Kept]:  # noqa: ARG002
        """Mean squares of rows and columns, which are the last two dimensions; of a vector those of its elements."""
        if parameter.dim() < 2:
            return {"variance": Kept.like(parameter), "step": Kept.count()}
        *before, rows, columns = parameter.shape
        return {
            "row_var": Kept(torch.Size([*before, rows, 1]), parameter.dtype),
            "col_var": Kept(torch.Size([*before, 1, columns]), parameter.dtype),
            "step": Kept.count(),
        }


FACTORY: OptimizerFactory = AdafactorFactory()
