"""Unstructured pruning: single weights become zero.

zero_weights    sets the weights that matter least to zero

Embeddings stay whole, and so does a head that is one. The zeros are the mask: nothing is stored beside them, and the
layers become such as train around them (see models/light.py), in this step and in those that follow.
"""

from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor, nn

from costopt.schema.compression import Prune
from costopt_trainer.compress.prune_scores import Scores
from costopt_trainer.compress.prune_units import is_matrix
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.light import stay_sparse

Matrix = tuple[nn.Module, str]
"""A module, and the name of a matrix in it."""


def zero_weights(model: LayeredModel, settings: Prune, share: Fraction, scores: Scores) -> int:
    """Set `share` of the weights to zero: of each matrix, or of all together. What is zero already counts, and stays.

    Returns how many are zero then, in matrices. Raises NotRetryable("InvalidSettings") if the model has no matrix, or
    one that the criterion has no score for.
    """
    matrices = list(_matrices(model))
    if not matrices:
        raise NotRetryable(
            "InvalidSettings",
            "a Prune step with structure Unstructured needs a model with at least one linear, convolution or recurrent "
            "layer",
        )
    ranked = [_ranked(matrix, settings, scores) for matrix in matrices]
    with torch.no_grad():
        if settings.scope == "Global":
            _zero_least([getattr(*matrix) for matrix in matrices], torch.cat([one.flatten() for one in ranked]), share)
        else:
            for matrix, one in zip(matrices, ranked, strict=True):
                _zero_least([getattr(*matrix)], one.flatten(), share)
    for module, _ in matrices:
        stay_sparse(module)
    return sum(int((getattr(*matrix) == 0).sum()) for matrix in matrices)


def _matrices(model: LayeredModel) -> Iterator[Matrix]:
    for prefix, module in model.named_modules():
        names = ("weight",) if is_matrix(module) else getattr(module, "matrices", ())
        for name in names:
            if f"{prefix}.{name}" not in model.tied:
                yield module, name


def _ranked(matrix: Matrix, settings: Prune, scores: Scores) -> Tensor:
    found = scores.of_weight(*matrix)
    if found is None:
        raise NotRetryable(
            "InvalidSettings",
            f"prune.criterion must be L1 or Random here: {settings.criterion} measures linear and convolution layers "
            f"that every sample passes, and a {type(matrix[0]).__name__} of this model is none",
        )
    weight: Tensor = getattr(*matrix)
    return torch.where(weight.detach() == 0, torch.full_like(found, -1), found)


def _zero_least(weights: list[Tensor], scores_W: Tensor, share: Fraction) -> None:
    """Of all elements of `weights`, set the `share` with the least scores, rounded down, to zero, in place."""
    # Stable: equal scores are ordered by position, so equal weights always give the same pruned model.
    gone_W = torch.zeros(len(scores_W), dtype=torch.bool)
    gone_W[scores_W.argsort(stable=True)[: int(len(scores_W) * share)]] = True
    for weight, gone in zip(weights, gone_W.split([weight.numel() for weight in weights]), strict=True):
        weight[gone.view(weight.shape)] = 0
