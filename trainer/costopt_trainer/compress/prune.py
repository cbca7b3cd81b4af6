"""Removing weights: single ones become zero (unstructured), or whole channels go and matrices get smaller (structured).

    prune              the Prune step
    _prune_weights     unstructured, with torch.nn.utils.prune, made permanent
    _prune_channels    structured, with torch-pruning (Fang et al., arXiv 2301.12900), which finds dependent channels

`LayeredModel.prunable` says what may be removed structurally in each layer: whole attention heads, hidden channels,
channels of convolutions. Inputs and outputs keep their shapes.

A count that is not whole is rounded down, and at least one head or channel stays: 30 percent of 4 heads is 1 head. A
step that would remove nothing anywhere is refused.
"""

import warnings
from collections.abc import Callable

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from costopt.schema.compression import Prune
from costopt.schema.replica import PhaseName
from costopt_trainer.compress.step import StepRun
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel


def prune(model: LayeredModel, settings: Prune, example: Tensor) -> str:
    """Prune `model` in place and say what was done; the state of the random generators does not change.

    `example` is a batch of inputs on the model's device, used to trace which layers depend on each other. Raises
    NotRetryable("InvalidSettings") if `percent` is too small to remove anything from layers of these sizes, or if no
    channels of this model can go.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if settings.structure == "Unstructured":
            removed = _prune_weights(model, settings)
        else:
            removed = _prune_channels(model, settings, example)
    unstructured = settings.structure == "Unstructured"
    if removed == 0:
        things = "weights" if unstructured else "heads or channels"
        raise NotRetryable(
            "InvalidSettings",
            f"prune.percent must be larger than {settings.percent}: no layer of this model has enough {things} "
            "to lose one",
        )
    return (
        f"Prune {settings.structure} {settings.criterion} {settings.percent} percent: "
        f"{removed:,} {'weights are zero' if unstructured else 'channels are removed'}"
    )


def _prune_weights(model: LayeredModel, settings: Prune) -> int:
    """Set `percent` of each matrix of linear, convolution and recurrent layers to zero; returns how many.

    Embeddings stay whole, and so does a head that is one.
    """
    method = torch_prune.l1_unstructured if settings.criterion == "L1" else torch_prune.random_unstructured
    removed, found = 0, False
    for name, module in model.named_modules():
        matrices = ("weight",) if isinstance(module, nn.Linear | nn.Conv2d) else getattr(module, "matrices", ())
        for matrix in matrices:
            if f"{name}.{matrix}" in model.tied:
                continue
            found = True
            count = getattr(module, matrix).numel() * settings.percent // 100
            method(module, name=matrix, amount=count)
            # Otherwise the layer would keep the old weights beside a mask, and the file would be twice as large.
            torch_prune.remove(module, matrix)
            removed += count
    if not found:
        raise NotRetryable(
            "InvalidSettings",
            "a Prune step with structure Unstructured needs a model with at least one linear, convolution or recurrent "
            "layer",
        )
    return removed


def _prune_channels(model: LayeredModel, settings: Prune, example: Tensor) -> int:
    """Remove `percent` of the heads and channels of each layer; returns how many output channels that is."""
    parts = list(model.prunable())
    if not parts:
        raise NotRetryable(
            "InvalidSettings",
            "prune.structure must be Unstructured for this model: none of its layers can be made narrower by itself",
        )
    score: Callable[..., Tensor]
    if settings.criterion == "L1":
        # The mean over all tensors of a group, unscaled, so that scores of one layer's channels are comparable.
        score = torch_pruning.importance.MagnitudeImportance(p=1, group_reduction="mean", normalizer=None)
    else:
        score = torch_pruning.importance.RandomImportance()
    model.eval()  # tracing must neither drop activations nor move batch norm's averages
    model.requires_grad_(True)  # dependencies come from the autograd graph
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    removed = 0
    for part in parts:
        blocks = part.channels // part.block
        count = min(blocks * settings.percent // 100, blocks - 1)
        if count == 0:
            continue
        remove_output = graph.get_pruner_of_module(part.layer).prune_out_channels
        whole = graph.get_pruning_group(part.layer, remove_output, list(range(part.channels)))
        with torch.no_grad():
            scores = score(whole).view(blocks, part.block).mean(dim=1)
        # Stable: equal scores are ordered by position, so equal weights always give the same pruned model.
        least = torch.argsort(scores, stable=True)[:count].tolist()
        channels = [block * part.block + offset for block in sorted(least) for offset in range(part.block)]
        graph.get_pruning_group(part.layer, remove_output, channels).prune()
        removed += len(channels)
    return removed


class PruneStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "Pruning"
    trains = False

    def changes_shapes(self, settings: Prune) -> bool:
        return settings.structure == "Structured"

    def wants_speed(self, settings: Prune) -> bool:
        return settings.structure == "Structured"

    def wants_compile(self, _settings: Prune) -> bool:
        return False

    def apply(self, model: LayeredModel, settings: Prune, run: StepRun) -> str:
        return prune(model, settings, run.example)


STEP = PruneStep()
