"""What a document whose ranks cannot share the work could say instead: found by asking its own rules of each candidate.

alternatives       the values of each setting that, alone, obey all rules
advice             the same in words, behind a sentence; advice_for_rule: behind that of a broken rule
training           the plain data that these want, from a recipe and its ranks
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import gcd, isqrt, prod
from typing import Any

from costopt.schema.base import CANNOT_BE_READ, PlainData, Rule, Strict
from costopt.schema.bounds import bounded_values
from costopt.schema.degrees import DEGREES, data_parallel_ranks
from costopt.schema.parallelism import Parallelism
from costopt.schema.rank_rules import RANK_RULES, processes_per_node
from costopt.schema.recipe import Batch, Recipe

Path = tuple[str, ...]
Demand = Callable[[PlainData], bool]

LEFT_OUT = "left out"
"""A candidate: the setting is not written."""
_SHOWN = 8
"""Values of one setting that a sentence names at most: those next to what is written."""
_TRIED_OF_TWO = 12
"""Values of the first of two settings that are tried with all of the second."""

_MOST = 10**10
"""Ranks and samples beyond which nothing is tried."""

_PARALLELISM: Path = ("recipe", "parallelism")
_BATCH: Path = ("recipe", "batch")


def _degrees_in(rule: Rule) -> list[str]:
    """The degrees that a rule of `train`, of its recipe or of its parallelism depends on, as its CEL says."""
    return [name for name in DEGREES if re.search(rf"\.{name}\b", rule.cel)]


_RULES: list[tuple[Path, Rule]] = sorted(
    [
        *(((), rule) for rule in RANK_RULES),
        *((("recipe",), rule) for rule in Recipe.rules),
        *((_PARALLELISM, rule) for rule in Parallelism.rules),
        *((_BATCH, rule) for rule in Batch.rules),
    ],
    key=lambda row: not _degrees_in(row[1]),
)
"""All rules that another value of one of SETTINGS could break or mend, and which settings of `train` each sees. Those
about degrees, which most candidates break, come first."""


@dataclass(frozen=True)
class Setting:
    """A setting under `train` that could have another value."""

    path: Path
    candidates: Callable[[PlainData], Iterable[Any]]
    """Plain `train` data with defaults -> values among which are all that obey the rules, or, where these have no end,
    the nearest of them on either side."""
    model: type[Strict] | None = None
    """The class whose bounds hold for it."""

    @property
    def name(self) -> str:
        """As sentences call it."""
        return ".".join(self.path)


def _divisors(number: int) -> list[int]:
    """Raises ValueError for a number whose divisors would take long to find, and of which nobody has so many."""
    if number > _MOST:
        raise ValueError(f"{number} is more than {_MOST}")
    small = [each for each in range(1, isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})


def _near(number: int, step: int) -> list[int]:
    """The multiples of `step` next to a number."""
    below = number // step * step
    return [each for each in (below, below + step) if each > 0]


def _ranks(train: PlainData) -> int:
    return int(train["numNodes"]) * processes_per_node(train)


def _degrees_of_ranks(train: PlainData) -> list[int]:
    return _divisors(_ranks(train))


def _global_batch_sizes(train: PlainData) -> list[int]:
    """Multiples of what all ranks take in one pass; also such that fill a pipeline, and twice that for batch.auto."""
    batch, degrees = train["recipe"]["batch"], train["recipe"]["parallelism"]
    one_pass = int(batch["microBatchSize"]) * data_parallel_ranks(_ranks(train), degrees)
    steps = (one_pass, one_pass * int(degrees["pipeline"]))
    return sorted({2 * one_pass, *(size for step in steps for size in _near(int(batch["globalBatchSize"]), step))})


def _smaller_micro_batches(train: PlainData) -> list[int]:
    """What fits in memory does so with fewer samples, too. Where a larger one would do, 1 does."""
    batch = train["recipe"]["batch"]
    return [size for size in _divisors(int(batch["globalBatchSize"])) if size < batch["microBatchSize"]]


def _numbers_of_nodes(train: PlainData) -> list[int]:
    """As many as the degrees ask for, with data-parallel ranks that divide the batch; else multiples of that."""
    batch, degrees = train["recipe"]["batch"], train["recipe"]["parallelism"]
    per_node, nodes = processes_per_node(train), int(train["numNodes"])
    each = prod(int(degrees[name]) for name in DEGREES if name != "dataParallel")
    replicas = _divisors(max(1, int(batch["globalBatchSize"]) // int(batch["microBatchSize"])))
    ranks = [each * int(degrees["dataParallel"])] if "dataParallel" in degrees else [each * one for one in replicas]
    exact = {one // per_node for one in ranks if one % per_node == 0}
    return sorted({*exact, *_near(nodes, each // gcd(each, per_node))})


def _without(group: str, name: str) -> Callable[[PlainData], list[Any]]:
    return lambda train: [LEFT_OUT] if name in train["recipe"][group] else []


def _off(name: str) -> Callable[[PlainData], list[Any]]:
    return lambda train: [False] if train["recipe"]["parallelism"][name] else []


SETTINGS = (
    *(Setting((*_PARALLELISM, name), _degrees_of_ranks, Parallelism) for name in reversed(DEGREES)),
    Setting((*_BATCH, "globalBatchSize"), _global_batch_sizes, Batch),
    Setting((*_BATCH, "microBatchSize"), _smaller_micro_batches, Batch),
    Setting(("numNodes",), _numbers_of_nodes),
    Setting((*_PARALLELISM, "stagesPerRank"), lambda _: range(1, 65), Parallelism),
    Setting((*_PARALLELISM, "layersPerStage"), _without("parallelism", "layersPerStage")),
    Setting((*_PARALLELISM, "sequenceParallel"), _off("sequenceParallel")),
    Setting((*_PARALLELISM, "offloadToCpu"), _off("offloadToCpu")),
    Setting((*_BATCH, "auto"), _without("batch", "auto")),
)
"""What is looked at, in the order in which it is named."""

OF_RECIPE = tuple(setting for setting in SETTINGS if setting.path[0] == "recipe")
"""Those that are left where nothing is known of nodes."""

_ALL_DEGREES = Setting(_PARALLELISM, lambda _: [LEFT_OUT])
"""The last resort."""


def _any(_train: PlainData) -> bool:
    return True


def alternatives(
    train: PlainData, *, also: Demand = _any, settings: Iterable[Setting] = SETTINGS
) -> dict[Setting, list[Any]]:
    """Other values of each setting with which, alone, plain `train` data with defaults obeys all rules about degrees,
    breaks none that it obeys now, and meets `also`. Settings that have none are left out."""
    return {setting: found for setting in settings if (found := list(_fitting(train, setting, _stays(train), also)))}


def training(recipe: Recipe, *, num_nodes: int, processes_per_node: int) -> PlainData:
    """Plain `spec.train` data with defaults, for where a replica knows its recipe and ranks alone."""
    ranks = {"numNodes": num_nodes, "processesPerNode": processes_per_node}
    return {**ranks, "resourcesPerNode": {"requests": {}}, "recipe": recipe.to_plain()}


def advice(
    train: PlainData, degrees: Collection[str], *, also: Demand = _any, settings: Collection[Setting] = SETTINGS
) -> str:
    """What is said behind a refusal because of `degrees`, names of DEGREES: what would obey all rules."""
    try:
        found = alternatives(train, also=also, settings=settings)
        if found:
            named = {setting.path[-1] for setting in found}
            would = "; each of these alone would do: "
            if degrees and not named.intersection(degrees):
                would = f"; no other {_told([*degrees])} would do; each of these alone would: "
            return would + "; ".join(f"{setting.name} {_told(values)}" for setting, values in _shown(train, found))
        return "; no other value of one setting would do; " + _of_several(train, degrees, also, settings)
    except CANNOT_BE_READ:
        return ""  # another mistake leaves it open


def advice_for_rule(train: PlainData, rule: Rule) -> str:
    """The same of a broken rule; nothing of one that is not about degrees."""
    degrees = _degrees_in(rule)
    place = next((path for path, each in _RULES if each is rule), None)
    if place is None or not degrees or _is_of_another_mistake(train, rule, place):
        return ""
    return advice(train, [name for name in degrees if re.search(rf"\b{name}\b", rule.message)])


def _of_several(train: PlainData, degrees: Collection[str], also: Demand, settings: Collection[Setting]) -> str:
    stays = _stays(train)
    if next(_fitting(train, _ALL_DEGREES, stays, also), None):
        return f"leave {_ALL_DEGREES.name} out"
    pairs = sorted(combinations(settings, 2), key=lambda pair: not any(setting.path[-1] in degrees for setting in pair))
    for first, second in (*pairs, *((_ALL_DEGREES, setting) for setting in settings)):
        for value in _nearest(train, first, _candidates(train, first))[:_TRIED_OF_TWO]:
            changed = _with(train, first, value)
            if others := _nearest(changed, second, _fitting(changed, second, stays, also)):
                return f"these two together would: {first.name} {_told([value])} with {second.name} {_told(others[:1])}"
    return "nor would one of any two: change degrees, batch and numNodes together"


def _fitting(train: PlainData, setting: Setting, stays: set[int], also: Demand) -> Iterator[Any]:
    for value in _candidates(train, setting):
        changed = _with(train, setting, value)
        obeyed = (number in stays or _holds(rule, path, changed) for number, (path, rule) in enumerate(_RULES))
        if all(obeyed) and also(changed):
            yield value


def _candidates(train: PlainData, setting: Setting) -> list[Any]:
    """Those within the bounds of the field."""
    try:
        least, most = _bounds(setting)
        return [each for each in setting.candidates(train) if type(each) is not int or least <= each <= most]
    except CANNOT_BE_READ:
        return []  # such as batches, where the degrees make up no ranks


def _stays(train: PlainData) -> set[int]:
    """Rules that are broken, and that no degree could mend."""
    return {number for number, (path, rule) in enumerate(_RULES) if _is_of_another_mistake(train, rule, path)}


def _is_of_another_mistake(train: PlainData, rule: Rule, path: Path) -> bool:
    """Whether a rule is broken, and not because of degrees. Those of `train` itself, of ranks and batch, always are."""
    if not _degrees_in(rule):
        return not _holds(rule, path, train)
    return path != () and not _holds(rule, path, _with(train, _ALL_DEGREES, LEFT_OUT))


def _holds(rule: Rule, path: Path, train: PlainData) -> bool:
    data: Any = train
    try:
        for key in path:
            data = data[key]
        return bool(rule.holds(data))
    except CANNOT_BE_READ:
        return True


@cache
def _bounds(setting: Setting) -> tuple[float, float]:
    """The least and the most that its field allows."""
    if setting.model is None:
        return 1, 4096
    [field] = (field for field in setting.model.model_fields.values() if field.alias == setting.path[-1])
    declared = [value.declared for value in bounded_values(field) if value.path == ()]
    return (
        max((low for one in declared for low in one.get("ge", [])), default=float("-inf")),
        min((high for one in declared for high in one.get("le", [])), default=float("inf")),
    )


def _with(train: PlainData, setting: Setting, value: Any) -> PlainData:
    return _put(train, setting.path, value)


def _put(data: PlainData, path: Path, value: Any) -> dict[str, Any]:
    key, *rest = path
    if rest:
        return {**data, key: _put(data[key], tuple(rest), value)}
    if value is not LEFT_OUT:
        return {**data, key: value}
    default = {key: Parallelism().to_plain()} if key == _PARALLELISM[-1] else {}
    return {**{name: given for name, given in data.items() if name != key}, **default}


def _nearest(train: PlainData, setting: Setting, values: Iterable[Any]) -> list[Any]:
    """Those next to what is written come first."""
    data: Any = train
    for key in setting.path[:-1]:
        data = data[key]
    written = data.get(setting.path[-1], 1)
    return sorted(values, key=lambda value: abs(value - written) if type(value) is type(written) is int else 0)


def _shown(train: PlainData, found: Mapping[Setting, list[Any]]) -> Iterator[tuple[Setting, list[Any]]]:
    for setting, values in found.items():
        yield setting, sorted(_nearest(train, setting, values)[:_SHOWN])


def _told(values: list[Any]) -> str:
    texts = [str(value).lower() if type(value) is bool else str(value) for value in values]
    return " or ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
