"""How the ranks are shared out: the product of all degrees of parallelism is the number of ranks.

DEGREES                one row per degree: what it splits
fault_of_degrees       why degrees do not make up the ranks, in words
data_parallel_ranks    among how many ranks each batch is shared out; nobody else computes it
cel_degrees_fit, cel_data_parallel_ranks, cel_degree    the same for the API server
"""

from math import prod
from typing import Literal

from costopt.schema.base import PlainData

DEGREES: dict[str, Literal["batch", "model"]] = {
    "dataParallel": "batch",
    "pipeline": "model",
}
"""The fields of `parallelism` that are degrees. Those that split the model are 1 if left out; dataParallel is then what
they leave of the ranks."""


def _model_degrees() -> list[str]:
    return [name for name, splits in DEGREES.items() if splits == "model"]


UNFIT_DEGREES = (
    "recipe.parallelism.dataParallel times pipeline must be the number of ranks, numNodes times processesPerNode "
    "(dataParallel may be left out)"
)


def fault_of_degrees(world_size: int, parallelism: PlainData) -> str | None:
    """UNFIT_DEGREES if these degrees (plain data) do not make up `world_size` ranks; None if they do.

    Raises ValueError if one is less than 1.
    """
    replicas, rest = divmod(world_size, _ranks_per_model(parallelism))
    given = parallelism.get("dataParallel")
    return None if rest == 0 and replicas > 0 and given in (None, replicas) else UNFIT_DEGREES


def data_parallel_ranks(world_size: int, parallelism: PlainData) -> int:
    """Number of equal shares of each batch. Raises ValueError if the degrees do not make up `world_size` ranks."""
    if fault := fault_of_degrees(world_size, parallelism):
        raise ValueError(fault)
    return world_size // _ranks_per_model(parallelism)


def _ranks_per_model(parallelism: PlainData) -> int:
    degrees = [int(parallelism.get(name, 1)) for name in _model_degrees()]
    if min(degrees) < 1:
        raise ValueError("a degree must be at least 1")
    return prod(degrees)


def cel_degree(recipe: str, name: str) -> str:
    """A degree that splits the model, of the recipe at a CEL path."""
    given = f"has({recipe}.parallelism) && has({recipe}.parallelism.{name})"
    return f"({given} ? {recipe}.parallelism.{name} : 1)"


def cel_data_parallel_ranks(world_size: str, recipe: str) -> str:
    """`data_parallel_ranks` in CEL, where the degrees fit."""
    return f"({world_size} / ({' * '.join(cel_degree(recipe, name) for name in _model_degrees())}))"


def cel_degrees_fit(world_size: str, recipe: str) -> str:
    """Whether the degrees make up the ranks, in CEL. Never overflows: it divides where it could multiply."""
    per_model = " * ".join(cel_degree(recipe, name) for name in _model_degrees())
    given = f"has({recipe}.parallelism) && has({recipe}.parallelism.dataParallel)"
    return (
        f"({world_size} % ({per_model}) == 0 && "
        f"(!({given}) || {recipe}.parallelism.dataParallel == {world_size} / ({per_model})))"
    )
