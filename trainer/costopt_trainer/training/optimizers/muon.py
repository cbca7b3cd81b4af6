"""Muon (Jordan et al. 2024; Liu et al., arXiv 2502.16982) for matrices in the layers, AdamW for all else."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from costopt.schema import optimization
from costopt.schema.optimization import Optimizer
from costopt_trainer.training.optimizers.adam_w import adam_w, moments
from costopt_trainer.training.optimizers.factory import Kept, OptimizerFactory, PlainState


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's two optimizers behind one face: groups and states are this one's, and each of the two has its share."""

    def __init__(self, settings: Optimizer, groups: list[dict[str, Any]]) -> None:
        own = settings.muon or optimization.Muon()
        rate = float(settings.learning_rate)
        hidden, others = _by_kind(groups)
        self._parts: list[tuple[torch.optim.Optimizer, bool]] = []
        """Each of the two that has parameters here, and whether it is for hidden matrices."""
        if hidden:
            muon = torch.optim.Muon(
                hidden,
                lr=rate,
                momentum=float(own.momentum),
                nesterov=own.nesterov,
                ns_steps=own.newton_schulz_steps,
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append((muon, True))
        if others:
            self._parts.append((adam_w(settings, own.adam_w, others), False))
        super().__init__(groups, {"lr": rate})
        self._hand_out()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and states, as `load_state_dict` makes them."""
        super().__setstate__(state)
        self._hand_out()

    def _hand_out(self) -> None:
        hidden, others = _by_kind(self.param_groups)
        for part, is_hidden in self._parts:
            part.param_groups, part.state = hidden if is_hidden else others, self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Both take a step by the gradients that are there; `closure` must be None."""
        if closure is not None:
            raise ValueError("Muon takes gradients as they are, and no closure")
        for part, _ in self._parts:
            part.step()


def _by_kind(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return [group for group in groups if group["hidden"]], [group for group in groups if not group["hidden"]]


class MuonFactory(PlainState):
    """torch's Muon and fused AdamW. Of a matrix that ranks share out or split, torch multiplies the whole."""

    splits_hidden = True

    def make(self, settings: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return MuonAndAdamW(settings, groups)

    def kept(self, settings: Optimizer, parameter: Tensor, *, hidden: bool) -> Mapping[str, Kept]:  # noqa: ARG002
        """The mean of gradients of a hidden matrix, AdamW's moments of all else."""
        return {"momentum_buffer": Kept.like(parameter)} if hidden else moments(parameter)


FACTORY: OptimizerFactory = MuonFactory()
