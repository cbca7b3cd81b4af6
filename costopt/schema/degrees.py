"""How the ranks are shared out: the product of all degrees of parallelism is the number of ranks.

DEGREES                one row per degree: what it splits
degrees_of             all degrees, the one that may be left out too
fault_of_degrees       why degrees do not make up the ranks, in words
data_parallel_ranks    among how many ranks each batch is shared out; nobody else computes it
cel_...                the same for the API server
"""

from collections.abc import Mapping
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


def cel_lists(condition: str) -> str:
    """A list with one of whole numbers for each degree, in the order of DEGREES, in CEL: of the usual ones those that
    would do in place of that degree. `x` in the condition is the list of all degrees."""
    tried = ", ".join(f"i == {i} ? d : {expression}" for i, expression in enumerate(map("{{{}}}".format, DEGREES)))
    lists = f"{list(range(len(DEGREES)))}.map(i, {list(_TOLD)}.filter(d, [[{tried}]].all(x, {condition})))"
    return lists.replace(", ", ",")


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
    """A degree of the recipe at a CEL path; 0 for a dataParallel that is left out. The others have a default, which the
    API server fills in."""
    degree = f"{recipe}.parallelism.{name}"
    return f"(has({degree}) ? {degree} : 0)" if name == _REST else degree


def cel_data_parallel_ranks(world_size: str, degrees: Mapping[str, str]) -> str:
    """`data_parallel_ranks` in CEL, where the degrees fit. They and `world_size` are expressions."""
    per_batch = [degrees[name] for name in _given_degrees() if DEGREES[name] == "model"]
    return f"({world_size} / ({' * '.join(per_batch)}))"


def cel_degrees_fit(world_size: str, degrees: Mapping[str, str]) -> str:
    """Whether the degrees make up the ranks, in CEL. Never overflows: the product of the bounds fits 64 bits."""
    per_replica, given = " * ".join(degrees[name] for name in _given_degrees()), degrees[_REST]
    return f"({world_size} % ({per_replica}) == 0 && ({given} == 0 || {given} * {per_replica} == {world_size}))"
