"""How the ranks are shared out: the product of all degrees of parallelism is the number of ranks.

DEGREES                one row per degree: what it splits
fitting                the usual ones that meet a condition, for sentences
leaves_ranks           whether a degree would fit the ranks beside the others
degrees_of             all degrees, the one that may be left out too
fault_of_degrees       why degrees do not make up the ranks, in words
data_parallel_ranks    among how many ranks each batch is shared out; nobody else computes it
cel_...                the same for the API server
"""

from collections.abc import Callable
from math import prod
from typing import Literal

from costopt.schema.base import PlainData

DEGREES: dict[str, Literal["batch", "model"]] = {
    "pipeline": "model",
    "dataParallel": "batch",
    "shard": "batch",
    "tensor": "model",
}
"""The fields of `parallelism` that are degrees, and whether the ranks along each get other samples or the same ones.

In this order ranks are numbered, the last one fastest: ranks that talk most are neighbours. Each is 1 if left out, but
for dataParallel, which is then what the others leave of the ranks."""

_REST = "dataParallel"


def _given_degrees() -> list[str]:
    return [name for name in DEGREES if name != _REST]


UNFIT_DEGREES = (
    f"recipe.parallelism: {' times '.join(sorted(DEGREES))} must be the number of ranks, numNodes times "
    f"processesPerNode ({_REST} may be left out)"
)

_TOLD = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 256, 512, 1024)


def fitting(condition: Callable[[int], bool]) -> list[int]:
    """The usual degrees that meet a condition, for sentences."""
    return [degree for degree in _TOLD if condition(degree)]


def cel_fitting(condition: str) -> str:
    """The same in CEL; the condition calls the degree `d`."""
    return f"{list(_TOLD)}.filter(d, {condition})".replace(", ", ",")


def leaves_ranks(name: str, degree: int, world_size: int, parallelism: PlainData) -> bool:
    """Whether degree `name` of plain data may be `degree`, for all that the ranks say, where dataParallel is left out.
    Raises ZeroDivisionError if another is 0."""
    return world_size % (degree * prod(int(parallelism.get(other, 1)) for other in _others(name))) == 0


def cel_leaves_ranks(name: str, degree: str, world_size: str, recipe: str) -> str:
    """The same in CEL; `degree` and `world_size` are expressions."""
    others = " * ".join(cel_degree(recipe, other) for other in _others(name))
    return f"{world_size} % ({degree} * {others}) == 0"


def _others(name: str) -> list[str]:
    return [other for other in _given_degrees() if other != name]


def fault_of_degrees(world_size: int, parallelism: PlainData) -> str | None:
    """UNFIT_DEGREES if these degrees (plain data) do not make up `world_size` ranks; None if they do.

    Raises ValueError if one is less than 1.
    """
    replicas, rest = divmod(world_size, _product(parallelism, _given_degrees()))
    given = parallelism.get(_REST)
    return None if rest == 0 and replicas > 0 and given in (None, replicas) else UNFIT_DEGREES


def degrees_of(world_size: int, parallelism: PlainData) -> dict[str, int]:
    """Every degree. Raises ValueError if they do not make up `world_size` ranks."""
    if fault := fault_of_degrees(world_size, parallelism):
        raise ValueError(fault)
    given = {name: int(parallelism.get(name, 1)) for name in DEGREES}
    return given | {_REST: world_size // _product(parallelism, _given_degrees())}


def data_parallel_ranks(world_size: int, parallelism: PlainData) -> int:
    """Number of equal shares of each batch. Raises ValueError if the degrees do not make up `world_size` ranks."""
    degrees = degrees_of(world_size, parallelism)
    return prod(degree for name, degree in degrees.items() if DEGREES[name] == "batch")


def _product(parallelism: PlainData, names: list[str]) -> int:
    degrees = [int(parallelism.get(name, 1)) for name in names]
    if min(degrees) < 1:
        raise ValueError("a degree must be at least 1")
    return prod(degrees)


def cel_degree(recipe: str, name: str) -> str:
    """A degree of the recipe at a CEL path; not of dataParallel."""
    return f"{recipe}.?parallelism.?{name}.orValue(1)"


def cel_data_parallel_ranks(world_size: str, recipe: str) -> str:
    """`data_parallel_ranks` in CEL, where the degrees fit."""
    per_batch = [name for name in _given_degrees() if DEGREES[name] == "model"]
    return f"({world_size} / ({' * '.join(cel_degree(recipe, name) for name in per_batch)}))"


def cel_degrees_fit(world_size: str, recipe: str) -> str:
    """Whether the degrees make up the ranks, in CEL. Never overflows: the product of the bounds fits 64 bits."""
    per_replica = " * ".join(cel_degree(recipe, name) for name in _given_degrees())
    given = f"has({recipe}.parallelism) && has({recipe}.parallelism.{_REST})"
    return (
        f"({world_size} % ({per_replica}) == 0 && "
        f"(!({given}) || {recipe}.parallelism.{_REST} == {world_size} / ({per_replica})))"
    )
