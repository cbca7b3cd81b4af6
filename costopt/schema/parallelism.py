"""How the ranks of the built-in trainer share the work: degrees, and the schedule of a pipeline."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import PlainData, Rule, Strict, cel_list

ScheduleName = Literal["GPipe", "OneFOneB", "Interleaved", "ZeroBubble"]

_Layers = Annotated[int, Field(ge=1, le=4096)]

WITH_SEVERAL_STAGES = ("Interleaved", "ZeroBubble")
"""Schedules whose ranks hold two runs of layers each, unless told otherwise."""


class Parallelism(Strict):
    """How the ranks share the work. The product of the degrees is the number of ranks. Consecutive ranks are those that
    split tensors, then those that shard states, then replicas, then stages of the pipeline."""

    data_parallel: Annotated[int, Field(ge=1, le=262144)] | None = None
    """Replicas of the model, each of which takes its share of each batch. None means as many as the ranks make."""
    shard: Annotated[int, Field(ge=1, le=262144)] = 1
    """Ranks that share out the weights, gradients and optimizer state of one replica (FSDP2, ZeRO-3), and gather the
    weights of a layer only while they compute it. Each takes its share of each batch. With dataParallel greater than 1:
    hybrid sharding."""
    tensor: Annotated[int, Field(ge=1, le=4096)] = 1
    """Ranks that split the matrices of each layer and work on the same samples (tensor parallel); for ranks of one
    node, since they talk in each layer. It must divide the attention heads. A model of the Hugging Face library is
    split by its own plan, if it has one."""
    pipeline: Annotated[int, Field(ge=1, le=4096)] = 1
    """Ranks that the layers of one replica are split over, which pass micro-batches from one to the next; for models
    that one device cannot hold. With one micro-batch in each step it is plain model parallelism."""
    schedule: ScheduleName = "OneFOneB"
    """Order of forward and backward passes in the pipeline. OneFOneB holds fewer activations than GPipe; Interleaved
    and ZeroBubble leave ranks idle for less time. Not used if pipeline is 1."""
    stages_per_rank: Annotated[int, Field(ge=1, le=64)] | None = None
    """Runs of layers that each rank of the pipeline holds. None means 2 for Interleaved and ZeroBubble, else 1; GPipe
    and OneFOneB know no other number than 1."""
    layers_per_stage: Annotated[list[_Layers], Field(min_length=1, max_length=4096)] | None = None
    """Layers of each stage, from the first, where you place them by hand. None means as equal as can be."""
    sequence_parallel: bool = False
    """Whether the ranks that split tensors also share out the positions of a sample between the layers: less memory for
    the same traffic. The tokens of a sample must be a multiple of tensor."""
    reshard_after_forward: bool = True
    """Whether ranks that shard states drop the gathered weights of a layer after its forward pass, and gather them
    again for the backward pass: less memory, half as much traffic again. Never done in a pipeline."""
    offload_to_cpu: bool = False
    """Whether ranks that shard states keep these in host memory, and bring a layer to the device when it is computed:
    least device memory, slow. Optimizer steps are then taken by the CPU."""

    rules = (
        Rule(
            cel="self.tensor == 1 || self.pipeline == 1",
            message="tensor and pipeline must not both be greater than 1: split layers with one of them, and share the "
            "rest with shard or dataParallel",
            holds=lambda data: data["tensor"] == 1 or data["pipeline"] == 1,
        ),
        Rule(
            cel="!has(self.stagesPerRank) || self.stagesPerRank == 1 || self.schedule in "
            + cel_list(WITH_SEVERAL_STAGES),
            message="stagesPerRank must be 1 unless schedule is Interleaved or ZeroBubble",
            holds=lambda data: data.get("stagesPerRank", 1) == 1 or data["schedule"] in WITH_SEVERAL_STAGES,
        ),
    )

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline, over all its ranks."""
        return num_stages(self.to_plain())


def num_stages(parallelism: PlainData) -> int:
    """Stages of the pipeline, from plain data with defaults."""
    default = 2 if parallelism["schedule"] in WITH_SEVERAL_STAGES else 1
    pipeline = int(parallelism["pipeline"])
    return pipeline * int(parallelism.get("stagesPerRank", default)) if pipeline > 1 else 1


def cel_stages_per_rank(recipe: str) -> str:
    """Stages that each rank of a pipeline holds, in CEL, of the recipe at a path."""
    own = f"{recipe}.parallelism"
    several = f"{own}.schedule in {cel_list(WITH_SEVERAL_STAGES)}"
    return f"(has({own}.stagesPerRank) ? {own}.stagesPerRank : {several} ? 2 : 1)"
