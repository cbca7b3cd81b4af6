"""What earlier versions called otherwise, in what they have left on disk: a run folder's job, a replica's settings.

A manifest that a user writes today is not translated: its mistakes are named.
"""

from math import prod
from typing import Any


def in_todays_words(document: Any) -> None:
    """Put the recipe of a job, or of a replica's settings, into the words of today, in place.

    The document is plain data; what is not there, or of another kind than it should be, is left as it is.
    """
    train = _part(_part(document, "spec"), "train") or document
    recipe = _part(train, "recipe")
    optimizer, parallelism = _part(recipe, "optimizer"), _part(recipe, "parallelism")
    betas = {name: optimizer.pop(name) for name in ("beta1", "beta2") if name in optimizer}
    if betas:
        optimizer.setdefault("adamW", betas)
    if parallelism.pop("strategy", None) == "ModelParallel":
        # It split the layers over all ranks.
        counts = [train.get(name, 1) for name in ("numNodes", "processesPerNode")]
        parallelism.setdefault("pipeline", prod(count for count in counts if type(count) is int))


def _part(document: Any, name: str) -> dict[str, Any]:
    part = document.get(name) if isinstance(document, dict) else None
    return part if isinstance(part, dict) else {}
