"""AdamW with moments of 8 bits (Dettmers et al., arXiv 2110.02861), torchao's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from costopt.schema import optimization
from costopt.schema.optimization import Optimizer
from costopt_trainer.storage.quantized_tensors import AdamW8bit, OptimState8bit
from costopt_trainer.training.optimizers.factory import Kept, OptimizerFactory

BLOCK = 256
"""Numbers that share a scale."""
_SMALLEST = 4096
"""Parameters of fewer numbers keep float32, and those that are not whole blocks."""
_SIGNED = {"exp_avg": True, "exp_avg_sq": False}
_CODES, _SCALE = ".codes", ".scale"


class _AdamW8bit(AdamW8bit):
    """Takes rates that are set as plain numbers. Not compiled on a processor, so that no image needs a compiler."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
        on_gpu = any(parameter.is_cuda for group in self.param_groups for parameter in group["params"])
        with torch.compiler.set_stance("default" if on_gpu else "force_eager"):
            super().step(closure)


class AdamW8bitFactory:
    """torchao's. A checkpoint holds the codes of each moment and the scales of its blocks, exactly."""

    splits_hidden = False

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        own = settings.adam_w8bit or optimization.AdamW8bit()
        betas = (float(own.beta1), float(own.beta2))
        made: torch.optim.Optimizer = _AdamW8bit(
            groups, lr=float(settings.learning_rate), betas=betas, block_size=BLOCK
        )
        return made

    def kept(self, settings: Optimizer, parameter: Tensor, *, hidden: bool) -> Mapping[str, Kept]:  # noqa: ARG002
        """Of each moment codes and scales, or float32 where there are no whole blocks; and the number of steps."""
        kept = {"step": Kept.count()}
        blocks, rest = divmod(parameter.numel(), BLOCK)
        for name in _SIGNED:
            if parameter.numel() < _SMALLEST or rest:
                kept[name] = Kept.like(parameter)
            else:
                kept[name + _CODES] = Kept(parameter.shape, torch.uint8)
                kept[name + _SCALE] = Kept(torch.Size([blocks]), torch.float32)
        return kept

    def tensors_of(self, state: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """As the protocol says."""
        tensors: dict[str, Tensor] = {}
        for name, value in state.items():
            parts = {_CODES: value.codes, _SCALE: value.scale} if isinstance(value, OptimState8bit) else {"": value}
            tensors |= {name + part: tensor for part, tensor in parts.items()}
        return tensors

    def state_of(self, parameter: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """As the protocol says."""
        state: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if "." not in name}
        for name, signed in _SIGNED.items():
            if name + _CODES in tensors:
                codes, scale = (tensors[name + part].to(parameter.device) for part in (_CODES, _SCALE))
                empty = OptimState8bit.zeros((BLOCK,), signed, BLOCK, parameter.device)  # has the table of codes
                state[name] = OptimState8bit(codes, scale, empty.qmap, signed, dtype=parameter.dtype)
        return state


FACTORY: OptimizerFactory = AdamW8bitFactory()
