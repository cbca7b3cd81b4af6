"""Cutting a model into the stages of a pipeline.

Stage       a run of layers, computed in the training's precision
cut         the stages that a rank holds, and all of them as one module under the names of the whole model
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn

from costopt_trainer.models.chunked_loss import Use, each_chunk, head_loss_sum
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.training.precision import Autocast


class Stage(nn.Module):
    """Some layers, computed in the training's precision: the pipeline calls them itself.

    Where the last stage has a vocabulary's head it stops before that: the logits are the loss's own matter.
    """

    def __init__(self, layers: LayeredModel, autocast: Autocast) -> None:
        super().__init__()
        self.layers = layers
        self.autocast = autocast

    def forward(self, x: Tensor) -> Tensor:
        with self.autocast():
            # Convolutions give their channels last, but ranks send each other dense tensors only.
            head = self.layers.vocabulary_head
            return (self.layers(x) if head is None else self.layers.hidden(x)).contiguous()

    def loss_sum(self, x: Tensor, targets: Tensor, *, once: bool = True) -> Tensor:
        """The loss of what `forward` of the last stage gives: see `head_loss_sum`."""
        with self.autocast():
            head, smoothing = self.layers.vocabulary_head, self.layers.label_smoothing
            if head is None:
                return loss_sum(x, targets, smoothing)
            chunked = self.layers.chunked_loss
            return head_loss_sum(x, head, targets, chunked=chunked, once=once, smoothing=smoothing)

    def each_logits(self, x: Tensor, targets: Tensor, use: Use) -> None:
        """Call `use` with the logits of what `forward` of the last stage gives, and their targets."""
        with self.autocast():
            head = self.layers.vocabulary_head
            if head is None:
                use(x, targets)
            else:
                each_chunk(x, head, targets, use, chunked=self.layers.chunked_loss)


@dataclass(frozen=True)
class Cut:
    """What a rank holds of a model."""

    module: LayeredModel
    """All of it."""
    stages: dict[int, Stage]
    """The same modules, by number of their stage."""


def cut(
    model: LayeredModel, own: Sequence[int], num_stages: int, layers_per_stage: Sequence[int] | None, autocast: Autocast
) -> Cut:
    """The stages `own`, in order, of `num_stages`; `model` is used up.

    `layers_per_stage` places them by hand; None: as equal as can be.
    """
    counts = layers_per_stage or [
        model.num_layers * (stage + 1) // num_stages - model.num_layers * stage // num_stages
        for stage in range(num_stages)
    ]
    ends = list(accumulate(counts))
    pieces = {stage: _piece(model, ends[stage] - counts[stage], ends[stage]) for stage in own}
    stages = {stage: Stage(piece, autocast) for stage, piece in pieces.items()}
    if len(own) == 1:
        return Cut(pieces[own[0]], stages)
    whole = _shallow(model)
    layers = {name: layer for stage in own for name, layer in pieces[stage].layers.items()}
    whole.layers = nn.ModuleDict(layers)
    whole.drop_ends(start=own[0] > 0, end=own[-1] < num_stages - 1)
    return Cut(whole, stages)


def _piece(model: LayeredModel, first: int, last: int) -> LayeredModel:
    return _shallow(model).keep_layers(first, last)


def _shallow(model: LayeredModel) -> LayeredModel:
    """A model of the same submodules, which can lose some of them without the first one noticing."""
    twin = copy.copy(model)
    for part in ("_modules", "_parameters", "_buffers"):
        setattr(twin, part, dict(getattr(model, part)))
    return twin
