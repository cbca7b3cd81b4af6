"""What the ranks of a training must satisfy: degrees, batch, layers and heads must be shared out without a rest.

processes_per_node    ranks of each node
RANK_RULES            the rules of `spec.train`, in Python and CEL

An expression of CEL has no names. What several of these need of a document, FACTS, is therefore put in a list `v`, once
for each expression, and told by its place there.
"""

from collections.abc import Mapping
from string import Formatter

from costopt.schema.base import More, PlainData, Rule
from costopt.schema.degrees import (
    DEGREES,
    UNFIT_DEGREES,
    cel_data_parallel_ranks,
    cel_degree,
    cel_degrees_fit,
    cel_lists,
    data_parallel_ranks,
    fault_of_degrees,
)
from costopt.schema.models import (
    HEADS_FIELDS,
    LAYERS_FIELDS,
    cel_num_layers,
    cel_split_numbers,
    num_layers,
    split_fault,
)
from costopt.schema.parallelism import cel_stages_per_rank, num_stages
from costopt.schema.resources import GPU_RESOURCE, gpus_per_node


def processes_per_node(train: PlainData) -> int:
    """Ranks per node of plain `spec.train` data with defaults: processesPerNode, else the GPUs asked for, else 1."""
    return int(train.get("processesPerNode") or gpus_per_node(train["resourcesPerNode"]) or 1)


def _world_size(train: PlainData) -> int:
    """Ranks of plain `spec.train` data with defaults. Raises ValueError where a mistake leaves none."""
    ranks = int(train["numNodes"]) * processes_per_node(train)
    if ranks < 1:
        raise ValueError("there must be at least one rank")
    return ranks


def _degrees_fit(train: PlainData) -> bool:
    return "recipe" not in train or fault_of_degrees(_world_size(train), train["recipe"]["parallelism"]) is None


def _batch_divides(train: PlainData) -> bool:
    if "recipe" not in train:
        return True
    batch = train["recipe"]["batch"]
    micro_batches, rest = divmod(batch["globalBatchSize"], batch["microBatchSize"])
    shares = data_parallel_ranks(_world_size(train), train["recipe"]["parallelism"])
    return bool(rest != 0 or micro_batches % shares == 0)  # a rest is Batch's own mistake


def _can_be_measured(train: PlainData) -> bool:
    if "recipe" not in train or "auto" not in train["recipe"]["batch"]:
        return True
    batch = train["recipe"]["batch"]
    shares = data_parallel_ranks(_world_size(train), train["recipe"]["parallelism"])
    return bool(batch["globalBatchSize"] >= 2 * batch["microBatchSize"] * shares)


def _layers_suffice(train: PlainData) -> bool:
    if "recipe" not in train:
        return True
    return num_layers(train["recipe"]["model"]) >= num_stages(train["recipe"]["parallelism"])


def _layers_are_placed(train: PlainData) -> bool:
    placed = train.get("recipe", {}).get("parallelism", {}).get("layersPerStage")
    if placed is None:
        return True
    recipe = train["recipe"]
    return len(placed) == num_stages(recipe["parallelism"]) and sum(placed) == num_layers(recipe["model"])


def _tensors_are_split(train: PlainData) -> bool:
    if "recipe" not in train:
        return True
    degrees = train["recipe"]["parallelism"]
    return split_fault(train["recipe"]["model"], int(degrees["tensor"]), sequence=degrees["sequenceParallel"]) is None


def _pipeline_is_filled(train: PlainData) -> bool:
    if "recipe" not in train:
        return True
    batch, degrees = train["recipe"]["batch"], train["recipe"]["parallelism"]
    micro_batches, rest = divmod(batch["globalBatchSize"], batch["microBatchSize"])
    shares = data_parallel_ranks(_world_size(train), degrees)
    several = num_stages(degrees) > int(degrees["pipeline"])
    # A rest is Batch's own mistake.
    return rest != 0 or not several or bool(micro_batches // shares % int(degrees["pipeline"]) == 0)


_GPUS = (
    "("
    + "".join(
        f"has(self.resourcesPerNode.{field}) && '{GPU_RESOURCE}' in self.resourcesPerNode.{field} "
        f"? int(string(self.resourcesPerNode.{field}['{GPU_RESOURCE}'])) : "
        for field in ("requests", "limits")
    )
    + "0)"
)
_PROCESSES = f"(has(self.processesPerNode) ? self.processesPerNode : [{_GPUS}].map(g, g > 0 ? g : 1)[0])"
_LAYERS_PER_STAGE = "self.recipe.parallelism.layersPerStage"
_PLACED = f"has({_LAYERS_PER_STAGE})"
_SEQUENCE = "r.parallelism.sequenceParallel"
_SPLIT_NUMBERS = {f"divided{place}": cel for place, cel in enumerate(cel_split_numbers("m", _SEQUENCE))}
FACTS = {
    "ranks": f"self.numNodes * {_PROCESSES}",
    "size": "r.batch.globalBatchSize",
    "micro": "r.batch.microBatchSize",
    "passes": "(r.batch.microBatchSize < 1 || r.batch.globalBatchSize % r.batch.microBatchSize != 0 ? 0 "
    ": r.batch.globalBatchSize / r.batch.microBatchSize)",
    **{name: cel_degree("r", name) for name in DEGREES},
    "per_rank": cel_stages_per_rank("r"),
    "layers": cel_num_layers("m"),
    "placed": f"({_PLACED} ? size({_LAYERS_PER_STAGE}) : 0)",
    "placed_layers": f"({_PLACED} ? {_LAYERS_PER_STAGE}.sum() : 0)",
    "sequence": f"({_SEQUENCE} ? 1 : 0)",
    "auto": "(has(r.batch.auto) ? r.batch.auto.largest : 0)",
    **_SPLIT_NUMBERS,
}
"""Whole numbers of a document of `spec.train`, with a recipe `r` and its model `m`, in CEL. 0 is said of what is left
out (dataParallel, layersPerStage, batch.auto), and of the passes of a batch that is no multiple of microBatchSize.

What the cost of an expression grows with, texts and lists, is named from `self` on: only there the API server, which
bounds that cost beforehand, knows how large they may be."""


def _cel_with_facts(expression: str, macro: str) -> str:
    """The macro `all`, or `map`, over a list of one, the list of the facts that an expression calls by name, such as
    {ranks}. An expression written out several times would make the CRD larger."""
    names = sorted({name for _, name, _, _ in Formatter().parse(expression) if name})
    facts = ", ".join(FACTS[name] for name in names)
    own = expression.format(**{name: f"v[{place}]" for place, name in enumerate(names)})
    index = "[0]" if macro == "map" else ""
    return f"[self.recipe].{macro}(r, [r.model].{macro}(m, [[{facts}]].{macro}(v, {own}){index}){index}){index}"


def _cel_holds(expression: str) -> str:
    """A rule of documents with a recipe. One that another mistake has left without ranks obeys it."""
    divisors = [fact for fact in ("{ranks}", "{pipeline}", "{shard}", "{tensor}") if fact in expression]
    nothing = [f"{fact} < 1" for fact in divisors]
    return f"!has(self.recipe) || {_cel_with_facts(' || '.join([*nothing, expression]), 'all')}"


def _cel_rules(degrees: Mapping[str, str]) -> dict[str, str]:
    """What rules demand of degrees, each an expression, in CEL."""
    shares, pipeline, tensor = cel_data_parallel_ranks("{ranks}", degrees), degrees["pipeline"], degrees["tensor"]
    stages = f"({pipeline} == 1 ? 1 : {pipeline} * {{per_rank}})"
    divided = " && ".join(f"{{{name}}} % {tensor} == 0" for name in _SPLIT_NUMBERS)
    return {
        "fit": cel_degrees_fit("{ranks}", degrees),
        "batch": f"{{passes}} % {shares} == 0",
        "auto": f"({{auto}} == 0 || {{size}} >= 2 * {{micro}} * {shares})",
        "stages": f"{{layers}} >= {stages}",
        "placed": f"({{placed}} == 0 || {{placed}} == {stages} && {{placed_layers}} == {{layers}})",
        "split": f"({tensor} == 1 ? {{sequence}} == 0 : {divided})",
        "one": f"({pipeline} == 1 || {tensor} == 1)",
        "filled": f"({{per_rank}} == 1 || {pipeline} == 1 || {{passes}} / {shares} % {pipeline} == 0)",
    }


_OWN_DEGREES = {name: f"{{{name}}}" for name in DEGREES}
_OWN, _OWN_SHARES = _cel_rules(_OWN_DEGREES), cel_data_parallel_ranks("{ranks}", _OWN_DEGREES)
_TRIED = {name: f"x[{place}]" for place, name in enumerate(DEGREES)}
_LISTS = cel_lists(" && ".join(_cel_rules(_TRIED).values()))
_WITHOUT_BATCH = " && ".join(_OWN[rule] for rule in ("stages", "placed", "split", "one"))
_SIZES = (
    f"[{{micro}} * {_OWN_SHARES}].map(s, [{{size}} / s * s, {{size}} / s * s + s].filter(n, n > 0 && n <= 10000000 && "
    "({auto} == 0 || n >= 2 * s && n <= {auto}) && "
    f"({{per_rank}} == 1 || {{pipeline}} == 1 || n / s % {{pipeline}} == 0) && {_WITHOUT_BATCH}))"
)


def _more(before: str, lists: str) -> More:
    told = ", ".join(f"{name} %s" for name in DEGREES)
    return More(
        f"; with these ranks, batch and model would fit, alone: {before}{told}; costopt validate looks at all settings",
        _cel_with_facts(lists, "map"),
    )


_DEGREES_THAT_FIT = _more("", _LISTS)

RANK_RULES = (
    Rule(
        cel=f"!has(self.processesPerNode) || [{_GPUS}].all(g, g == 0 || self.processesPerNode <= g)",
        message="processesPerNode must be at most the nvidia.com/gpu asked for per node",
        holds=lambda data: (
            "processesPerNode" not in data
            or gpus_per_node(data["resourcesPerNode"]) == 0
            or data["processesPerNode"] <= gpus_per_node(data["resourcesPerNode"])
        ),
    ),
    Rule(
        cel=_cel_holds(_OWN["fit"]),
        message=UNFIT_DEGREES,
        more=_DEGREES_THAT_FIT,
        holds=_degrees_fit,
    ),
    Rule(
        cel=_cel_holds(f"!{_OWN['fit']} || {_OWN['batch']}"),
        message="recipe.batch.globalBatchSize must be a multiple of microBatchSize times the data-parallel ranks "
        "(numNodes times processesPerNode, divided by parallelism.tensor and by parallelism.pipeline)",
        more=_more("globalBatchSize %s, ", f"{_SIZES} + {_LISTS}"),
        holds=_batch_divides,
    ),
    Rule(
        cel=_cel_holds(f"!{_OWN['fit']} || {_OWN['auto']}"),
        message="recipe.batch.globalBatchSize must be at least twice microBatchSize times the data-parallel ranks with "
        "batch.auto, which measures a step at two sizes",
        holds=_can_be_measured,
    ),
    Rule(
        cel=_cel_holds(_OWN["stages"]),
        message="recipe.parallelism: the stages of the pipeline (pipeline times stagesPerRank) must be at most the "
        f"layers of the model ({LAYERS_FIELDS})",
        more=_DEGREES_THAT_FIT,
        holds=_layers_suffice,
    ),
    Rule(
        cel=_cel_holds(_OWN["placed"]),
        message="recipe.parallelism.layersPerStage must give the layers of each stage (pipeline times stagesPerRank "
        "numbers), in all as many as the model has",
        holds=_layers_are_placed,
    ),
    Rule(
        cel=_cel_holds(_OWN["split"]),
        message=f"recipe.parallelism.tensor must divide {HEADS_FIELDS}, with sequenceParallel the tokens of a sample "
        "as well (and be more than 1), and be 1 for other models; HuggingFace takes it where its model has a plan for "
        "it, without sequenceParallel",
        more=_DEGREES_THAT_FIT,
        holds=_tensors_are_split,
    ),
    Rule(
        cel=_cel_holds(f"!{_OWN['fit']} || {_OWN['filled']}"),
        message="recipe.batch: with several stages per rank the micro-batches of each replica (globalBatchSize "
        "divided by microBatchSize and the data-parallel ranks) must be a multiple of parallelism.pipeline",
        more=_DEGREES_THAT_FIT,
        holds=_pipeline_is_filled,
    ),
)
"""The rules of `spec.train` about its ranks."""
