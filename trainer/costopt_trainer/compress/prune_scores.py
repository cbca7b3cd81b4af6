"""How much a weight matters, by each criterion; of units and layers it is that of their weights.

score_with      a criterion -> Scores, measured on samples where it asks for that
Scores          of single weights, of units, of layers

    L1          |w|
    Random      drawn from the seed; a baseline to compare with
    Taylor      |w g|, g the gradient of the loss: what the loss loses with it, to first order (Molchanov et al.,
                arXiv 1906.10771)
    Activation  |w| times the mean |x| of what it multiplies (Sun et al., arXiv 2306.11695); of a layer, how far what
                leaves it is from what enters it, relative to that

Samples are training samples of the job's own data, in the order of the seed. The model is in eval mode while it is
measured, and is as it was afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from costopt.schema.compression import Prune
from costopt_trainer.compress.prune_units import Units, input_axis
from costopt_trainer.compress.step import StepRun
from costopt_trainer.data import Batch, sample_indices
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel

SAMPLES = 8
"""In a batch to measure on, where no recipe says how many fit."""
_TINY = 1e-30


@dataclass
class Scores:
    """What matters in a model, now. All are at least 0; larger matters more."""

    of_weight: Callable[[nn.Module, str], Tensor | None]
    """Of each element of a module's parameter; None if nothing was measured of it."""
    of_layers: Callable[[Sequence[nn.Module]], Tensor]
    """Of layers, one number each."""
    inputs_only: bool = False
    """Whether units matter by what reads them alone."""

    def of_units(self, units: Units) -> Tensor:
        """One number for each unit: the mean over all tensors that it is part of, of which each counts the same."""
        total_U = torch.zeros(units.count, dtype=torch.float64)
        for part in units.slices:
            if part.name != "weight" or (self.inputs_only and not part.is_input):
                continue
            scores = self.of_weight(part.owner, part.name)
            if scores is None:
                continue
            others = [dim for dim in range(scores.dim()) if dim != part.dim]
            of_index_I = (scores.sum(dim=others) if others else scores).double().cpu()
            there_I = part.unit_I >= 0
            sums_U = torch.zeros_like(total_U).index_add(0, part.unit_I[there_I], of_index_I[there_I])
            total_U += sums_U / sums_U.mean().clamp(min=_TINY)
        return total_U


def score_with(model: LayeredModel, settings: Prune, run: StepRun) -> Scores:
    """Scores by the criterion of `settings`. Raises NotRetryable("InvalidSettings") if it needs data and has none."""
    with torch.random.fork_rng(devices=[]):
        return _CRITERIA[settings.criterion](model, settings, run)


def _by_magnitude(_model: LayeredModel, _settings: Prune, _run: StepRun) -> Scores:
    return _from_weights(lambda owner, name: getattr(owner, name).detach().abs())


def _at_random(_model: LayeredModel, settings: Prune, _run: StepRun) -> Scores:
    generator = torch.Generator().manual_seed(settings.seed)
    return _from_weights(lambda owner, name: torch.rand(getattr(owner, name).shape, generator=generator))


def _by_gradient(model: LayeredModel, settings: Prune, run: StepRun) -> Scores:
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.eval().requires_grad_(True).zero_grad(set_to_none=True)
    for inputs, targets in _samples(settings, run):
        model.loss_sum(inputs, targets).backward()
    scores = {
        id(parameter): (parameter.detach() * parameter.grad).abs()
        for parameter in model.parameters()
        if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wanted[name])
    return _from_weights(lambda owner, name: scores.get(id(getattr(owner, name))))


@dataclass
class _Seen:
    """What passed while the model ran on samples."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    """id of a layer -> the sum of |x| over all positions of all samples, for each input."""
    changes: dict[int, list[float]] = field(default_factory=dict)
    """id of a block -> |out - in| / |in| of each batch."""

    def note_input(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """A hook before a layer."""
        x = arguments[0].detach().abs().double()
        channel = 1 if isinstance(layer, nn.Conv2d) else x.dim() - 1
        sums = x.sum(dim=[dim for dim in range(x.dim()) if dim != channel])
        self.inputs[id(layer)] = self.inputs.get(id(layer), 0) + sums

    def note_change(self, block: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        """A hook behind a block; what it is given first, and gives first, is the stream."""
        before, after = arguments[0].detach(), (output[0] if isinstance(output, tuple) else output).detach()
        if before.shape == after.shape:
            change = (after - before).norm() / before.norm().clamp(min=_TINY)
            self.changes.setdefault(id(block), []).append(float(change))


def _by_activation(model: LayeredModel, settings: Prune, run: StepRun) -> Scores:
    seen = _Seen()
    model.eval()
    with torch.no_grad(), ExitStack() as hooks:
        for layer in model.modules():
            if input_axis(layer) is not None:
                hooks.callback(layer.register_forward_pre_hook(seen.note_input).remove)
        for block in model.blocks():
            hooks.callback(block.register_forward_hook(seen.note_change).remove)
        for inputs, _ in _samples(settings, run):
            model(inputs)

    def of_weight(owner: nn.Module, name: str) -> Tensor | None:
        sums_I, axis = seen.inputs.get(id(owner)), input_axis(owner)
        if sums_I is None or axis is None or name != "weight":
            return None
        weight: Tensor = getattr(owner, name).detach().abs()
        others = [1] * weight.dim()
        others[axis] = -1
        return weight * sums_I.to(weight.dtype).view(others)

    def of_layers(layers: Sequence[nn.Module]) -> Tensor:
        return torch.tensor([sum(seen.changes.get(id(layer), [0.0])) for layer in layers], dtype=torch.float64)

    return Scores(of_weight, of_layers, inputs_only=True)


_CRITERIA: dict[str, Callable[[LayeredModel, Prune, StepRun], Scores]] = {
    "L1": _by_magnitude,
    "Random": _at_random,
    "Taylor": _by_gradient,
    "Activation": _by_activation,
}


def _from_weights(of_weight: Callable[[nn.Module, str], Tensor | None]) -> Scores:
    """A layer's score is the mean of its weights'."""

    def of_layers(layers: Sequence[nn.Module]) -> Tensor:
        return torch.stack([_mean_of(layer) for layer in layers])

    def _mean_of(layer: nn.Module) -> Tensor:
        total, count = torch.zeros((), dtype=torch.float64), 0
        for module in layer.modules():
            for name, parameter in module.named_parameters(recurse=False):
                scores = of_weight(module, name)
                total = total if scores is None else total + scores.double().sum().cpu()
                count += parameter.numel()
        return total / max(count, 1)

    return Scores(of_weight, of_layers)


def _samples(settings: Prune, run: StepRun) -> Iterator[Batch]:
    """`calibrationBatches` batches to measure on."""
    data = run.data
    if data is None or data.num_train_samples < 1:
        raise NotRetryable(
            "InvalidSettings",
            f"prune.criterion must be L1 or Random here: {settings.criterion} is measured on samples to train on, and "
            "there are none",
        )
    count = SAMPLES if run.recipe is None else run.recipe.batch.micro_batch_size
    for number in range(settings.calibration_batches):
        indices = sample_indices(
            seed=settings.seed, position=number * count, count=count, num_samples=data.num_train_samples
        )
        yield data.train_batch(indices)
        run.pieces.done(number + 1, settings.calibration_batches)
