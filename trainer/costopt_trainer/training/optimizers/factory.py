"""What a row of the table of optimizers fulfils.

Kept                 a tensor that an optimizer keeps of a parameter
OptimizerFactory     the protocol
PlainState           for those whose state is tensors as a checkpoint has them
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from costopt.schema.optimization import Optimizer


@dataclass(frozen=True)
class Kept:
    """A tensor that is kept of a parameter after a step."""

    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def like(cls, parameter: Tensor) -> Self:
        """A number for each of the parameter's."""
        return cls(parameter.shape, parameter.dtype)

    @classmethod
    def count(cls) -> Self:
        """A number of steps, as torch counts them."""
        return cls(torch.Size(), torch.float32)


class OptimizerFactory(Protocol):
    """Makes optimizers of one kind, and knows what they keep."""

    splits_hidden: bool
    """Whether matrices in the layers are stepped otherwise than the rest: then groups of them are `hidden`."""

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimizer over `groups`, each with its `params` and `weight_decay`.

        The training loop sets each group's `lr` before a step. With FP16 a gradient scaler calls `step`: it skips the
        step of an optimizer by reading a flag from the device, unless the optimizer takes the flag itself (fused ones).
        """

    def kept(self, settings: Optimizer, parameter: Tensor, *, hidden: bool) -> Mapping[str, Kept]:
        """What is kept of `parameter` after a step, by name; a name has no slash.

        `hidden`: whether it is a matrix in the layers.
        """

    def tensors_of(self, state: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """A parameter's state, as the optimizer has it, as tensors by the names of `kept`; no copies."""

    def state_of(self, parameter: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """And back, of a checkpoint's tensors, which are those of `kept`."""


class PlainState:
    """The state is tensors, and these are what a checkpoint holds; all parameters are stepped alike."""

    splits_hidden = False

    def tensors_of(self, state: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """As the protocol says."""
        return state

    def state_of(self, parameter: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Any]:  # noqa: ARG002
        """As the protocol says."""
        return dict(tensors)
