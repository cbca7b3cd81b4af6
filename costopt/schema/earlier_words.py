"""What earlier versions called otherwise, in what they have left: a run folder's job, a replica's settings, a status on
a cluster or on disk, and the last words of a replica whose trainer is of an earlier version.

A manifest that a user writes today is not translated: its mistakes are named, and what to write in place of them.
"""

from math import prod
from typing import Any

RENAMED = {
    ("Optimizer", "beta1"): "it is adamW.beta1 now",
    ("Optimizer", "beta2"): "it is adamW.beta2 now",
    ("Parallelism", "strategy"): "ModelParallel is pipeline now, a number of stages; DDP is what there is without it",
}
"""Class and field of a manifest of before -> what to write today."""


def in_todays_words(document: Any) -> None:
    """Put a job, a replica's settings, a status or a termination message into the words of today, in place.

    The document is plain data; what is not there, or of another kind than it should be, is left as it is.
    """
    _recipe_in_todays_words(document)
    stages = document.get("stages") if isinstance(document, dict) else None
    places = [document, *(stages if isinstance(stages, list) else [])]
    for failure in (document, *(_part(place, "failure") for place in places)):
        # The name of a node, in a record of usage, is still called so.
        if isinstance(failure, dict) and type(failure.get("node")) is int:
            failure.setdefault("replicaIndex", failure.pop("node"))


def _recipe_in_todays_words(document: Any) -> None:
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
