"""What the ranks of a training must satisfy: degrees, batch, layers and heads must be shared out without a rest.

processes_per_node    ranks of each node
RANK_RULES            the rules of `spec.train`, in Python and CEL
"""

from collections.abc import Callable

from costopt.schema.base import More, PlainData, Rule
from costopt.schema.degrees import (
    UNFIT_DEGREES,
    cel_data_parallel_ranks,
    cel_degree,
    cel_degrees_fit,
    cel_fitting,
    cel_leaves_ranks,
    data_parallel_ranks,
    fault_of_degrees,
    fitting,
    leaves_ranks,
)
from costopt.schema.models import (
    HEADS_FIELDS,
    LAYERS_FIELDS,
    cel_can_be_split,
    cel_num_layers,
    num_layers,
    split_fault,
)
from costopt.schema.parallelism import cel_num_stages, num_stages
from costopt.schema.resources import gpus_per_node


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
    return _has_layers_for(train, train["recipe"]["parallelism"]["pipeline"])


def _has_layers_for(train: PlainData, pipeline: int) -> bool:
    stages = num_stages({**train["recipe"]["parallelism"], "pipeline": pipeline})
    return num_layers(train["recipe"]["model"]) >= stages


def _layers_are_placed(train: PlainData) -> bool:
    placed = train.get("recipe", {}).get("parallelism", {}).get("layersPerStage")
    if placed is None:
        return True
    recipe = train["recipe"]
    return len(placed) == num_stages(recipe["parallelism"]) and sum(placed) == num_layers(recipe["model"])


def _tensors_are_split(train: PlainData) -> bool:
    return "recipe" not in train or _can_be_split(train, int(train["recipe"]["parallelism"]["tensor"]))


def _can_be_split(train: PlainData, tensor: int) -> bool:
    sequence = bool(train["recipe"]["parallelism"]["sequenceParallel"])
    return split_fault(train["recipe"]["model"], tensor, sequence=sequence) is None


def _pipeline_is_filled(train: PlainData) -> bool:
    if "recipe" not in train:
        return True
    batch, degrees = train["recipe"]["batch"], train["recipe"]["parallelism"]
    micro_batches = batch["globalBatchSize"] // batch["microBatchSize"]
    shares = data_parallel_ranks(_world_size(train), degrees)
    several = num_stages(degrees) > int(degrees["pipeline"])
    return not several or bool(micro_batches // shares % int(degrees["pipeline"]) == 0)


def _degrees_of_ranks(train: PlainData) -> tuple[list[int], ...]:
    ranks = _world_size(train)
    return (fitting(lambda degree: ranks % degree == 0),)


def _batches_that_fit(train: PlainData) -> tuple[list[int], ...]:
    batch, ranks = train["recipe"]["batch"], _world_size(train)
    size, micro_batch = int(batch["globalBatchSize"]), int(batch["microBatchSize"])
    pass_of_all = micro_batch * data_parallel_ranks(ranks, train["recipe"]["parallelism"])
    below = size // pass_of_all * pass_of_all
    near = [near for near in (below, below + pass_of_all) if near > 0]
    return near, fitting(lambda degree: size // micro_batch % degree == 0)


def _degrees_that_fit(name: str, model_allows: Callable[[PlainData, int], bool]) -> More:
    """What is said of the degree `name`, which the model does not allow: those that it does, and the ranks as well."""

    def of(train: PlainData) -> tuple[list[int], ...]:
        # Not _world_size: CEL tells of no ranks, too, which another mistake has left.
        ranks, degrees = int(train["numNodes"]) * processes_per_node(train), train["recipe"]["parallelism"]
        return (fitting(lambda degree: model_allows(train, degree) and leaves_ranks(name, degree, ranks, degrees)),)

    allowed = f"{_CEL_MODEL_ALLOWS[name]} && {cel_leaves_ranks(name, 'd', _WORLD_SIZE, 'self.recipe')}"
    return More("; with these ranks, degrees that fit: %s", (cel_fitting(allowed),), of)


_GPUS = (
    "(has(self.resourcesPerNode.requests) && 'nvidia.com/gpu' in self.resourcesPerNode.requests "
    "? int(string(self.resourcesPerNode.requests['nvidia.com/gpu'])) "
    ": has(self.resourcesPerNode.limits) && 'nvidia.com/gpu' in self.resourcesPerNode.limits "
    "? int(string(self.resourcesPerNode.limits['nvidia.com/gpu'])) : 0)"
)
# A map over one element gives it a name: written out twice it would make the CRD larger.
_PROCESSES = f"(has(self.processesPerNode) ? self.processesPerNode : [{_GPUS}].map(g, g > 0 ? g : 1)[0])"
_WORLD_SIZE = f"(self.numNodes * {_PROCESSES})"
_PIPELINE = cel_degree("self.recipe", "pipeline")
_TENSOR = cel_degree("self.recipe", "tensor")
_SHARD = cel_degree("self.recipe", "shard")
_STAGES = cel_num_stages("self.recipe", _PIPELINE)
_PLACED = "has(self.recipe) && has(self.recipe.parallelism) && has(self.recipe.parallelism.layersPerStage)"
_SEQUENCE = (
    "(has(self.recipe.parallelism) && has(self.recipe.parallelism.sequenceParallel) "
    "&& self.recipe.parallelism.sequenceParallel)"
)
_DEGREES_FIT = cel_degrees_fit(_WORLD_SIZE, "self.recipe")
_NO_RANKS = (
    f"!has(self.recipe) || self.numNodes < 1 || {_PROCESSES} < 1 || {_PIPELINE} < 1 || {_TENSOR} < 1 || {_SHARD} < 1"
)
"""Other mistakes, after which there are no ranks to share out."""

_SHARES = cel_data_parallel_ranks(_WORLD_SIZE, "self.recipe")
_CEL_MODEL_ALLOWS = {
    "pipeline": f"{cel_num_layers('self.recipe.model')} >= {cel_num_stages('self.recipe', 'd')}",
    "tensor": cel_can_be_split("self.recipe.model", "d", _SEQUENCE),
}
_NEAR_BATCHES = (
    f"[self.recipe.batch.microBatchSize * {_SHARES}]"
    ".map(s, [self.recipe.batch.globalBatchSize / s * s].map(b, [b, b + s].filter(n, n > 0))[0])[0]"
)


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
        cel=f"{_NO_RANKS} || {_DEGREES_FIT}",
        message=UNFIT_DEGREES,
        more=More(
            ": each degree must divide it, such as %s", (cel_fitting(f"{_WORLD_SIZE} % d == 0"),), _degrees_of_ranks
        ),
        holds=_degrees_fit,
    ),
    Rule(
        cel=f"{_NO_RANKS} || !{_DEGREES_FIT} || self.recipe.batch.microBatchSize < 1 || "
        "self.recipe.batch.globalBatchSize % self.recipe.batch.microBatchSize != 0 || "
        "self.recipe.batch.globalBatchSize / self.recipe.batch.microBatchSize % "
        f"{_SHARES} == 0",
        message="recipe.batch.globalBatchSize must be a multiple of microBatchSize times the data-parallel ranks "
        "(numNodes times processesPerNode, divided by parallelism.tensor and by parallelism.pipeline)",
        more=More(
            "; sizes near it that fit: %s; data-parallel ranks that fit this size: %s",
            (
                _NEAR_BATCHES,
                cel_fitting("self.recipe.batch.globalBatchSize / self.recipe.batch.microBatchSize % d == 0"),
            ),
            _batches_that_fit,
        ),
        holds=_batch_divides,
    ),
    Rule(
        cel=f"{_NO_RANKS} || !{_DEGREES_FIT} || !has(self.recipe.batch.auto) || self.recipe.batch.globalBatchSize >= "
        f"2 * self.recipe.batch.microBatchSize * {_SHARES}",
        message="recipe.batch.globalBatchSize must be at least twice microBatchSize times the data-parallel ranks with "
        "batch.auto, which measures a step at two sizes",
        holds=_can_be_measured,
    ),
    Rule(
        cel=f"!has(self.recipe) || {cel_num_layers('self.recipe.model')} >= {_STAGES}",
        message="recipe.parallelism: the stages of the pipeline (pipeline times stagesPerRank) must be at most the "
        f"layers of the model ({LAYERS_FIELDS})",
        more=_degrees_that_fit("pipeline", _has_layers_for),
        holds=_layers_suffice,
    ),
    Rule(
        cel=f"!({_PLACED}) || size(self.recipe.parallelism.layersPerStage) == {_STAGES} && "
        f"self.recipe.parallelism.layersPerStage.sum() == {cel_num_layers('self.recipe.model')}",
        message="recipe.parallelism.layersPerStage must give the layers of each stage (pipeline times stagesPerRank "
        "numbers), in all as many as the model has",
        holds=_layers_are_placed,
    ),
    Rule(
        cel=f"!has(self.recipe) || {_TENSOR} < 1 || {cel_can_be_split('self.recipe.model', _TENSOR, _SEQUENCE)}",
        message=f"recipe.parallelism.tensor must divide {HEADS_FIELDS}, with sequenceParallel the tokens of a sample "
        "as well, and be 1 for other models; HuggingFace takes it where its model has a plan for it, without "
        "sequenceParallel",
        more=_degrees_that_fit("tensor", _can_be_split),
        holds=_tensors_are_split,
    ),
    Rule(
        cel=f"{_NO_RANKS} || !{_DEGREES_FIT} || self.recipe.batch.microBatchSize < 1 || {_STAGES} <= {_PIPELINE} || "
        "self.recipe.batch.globalBatchSize / self.recipe.batch.microBatchSize / "
        f"{_SHARES} % {_PIPELINE} == 0",
        message="recipe.batch: with several stages per rank the micro-batches of each replica (globalBatchSize "
        "divided by microBatchSize and the data-parallel ranks) must be a multiple of parallelism.pipeline",
        holds=_pipeline_is_filled,
    ),
)
"""The rules of `spec.train` about its ranks."""
