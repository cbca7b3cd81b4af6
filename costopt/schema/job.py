"""CostOptJob: what a user asks for."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from costopt.names import TRAIN_STAGE
from costopt.schema.accept_rules import METRIC_FITS_DATA
from costopt.schema.alternatives import advice_for_rule
from costopt.schema.base import (
    Count,
    Money,
    Name,
    ObjectName,
    PlainData,
    Rule,
    ShortText,
    Strict,
    cel_list,
    immutable,
    list_map_keys,
)
from costopt.schema.compression import Variant, trains
from costopt.schema.data import SourceSettings
from costopt.schema.data_kinds import DOCUMENTS, words_giving
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.given_model import GivenModel
from costopt.schema.pods import PodOverrides
from costopt.schema.rank_rules import RANK_RULES, processes_per_node
from costopt.schema.recipe import Recipe
from costopt.schema.resources import GPU_RESOURCE, NodeResources, effective_requests, gpus_per_node
from costopt.schema.retraining import TRAINING_NEEDS_RECIPE
from costopt.schema.storage import Storage
from costopt.schema.unions import one_of

MAX_COMMAND_LENGTH = 131_072
"""It is handed to replicas in a ConfigMap, of at most 1 MiB with every character escaped."""

Argument = Annotated[str, StringConstraints(max_length=4096)]


class Metadata(Strict):
    """The parts of Kubernetes object metadata that costopt reads."""

    name: ObjectName
    """Name of the object: lower-case letters, digits, '-' and '.'."""
    namespace: Name | None = None
    """Namespace. None means the context's (on a cluster) or nothing (on one machine)."""
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)
    """Labels, as in Kubernetes."""
    annotations: dict[str, str] = Field(default_factory=dict, max_length=64)
    """Annotations, as in Kubernetes."""
    uid: ShortText | None = None
    """Set by the API server."""
    generation: Count | None = None
    """Set by the API server: how often the spec has changed."""


@one_of(recipe="the built-in trainer", command="your own program")
class Train(Strict):
    """The training gang: numNodes equal pods that start, fail and restart together."""

    image: ShortText | None = None
    """Container image. None means the operator's default trainer image. Not used on one machine."""
    num_nodes: Annotated[int, Field(ge=1, le=4096)] = 1
    """Pods of the gang. On one machine: launcher processes."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """Ranks per node. None means one per GPU asked for, or 1 without GPUs."""
    resources_per_node: NodeResources
    """What each node is asked for; the bill counts it."""
    recipe: Recipe | None = None
    """Settings of the built-in trainer. Exactly one of recipe and command."""
    command: Annotated[list[Argument], Field(min_length=1, max_length=256)] | None = None
    """Your own program and its arguments, run once per rank under the same launcher, without a shell. It finds what
    it would find under one: the environment as it was given, Python's own variables too, and those of its rank."""

    rules = (
        Rule(
            cel=f"!has(self.command) || self.command.map(argument, size(argument)).sum() <= {MAX_COMMAND_LENGTH}",
            message=f"command must be at most {MAX_COMMAND_LENGTH:,} characters in all; put longer ones in the image",
            holds=lambda data: sum(map(len, data.get("command", []))) <= MAX_COMMAND_LENGTH,
        ),
        *RANK_RULES,
    )

    @staticmethod
    def advice(data: PlainData, rule: Rule) -> str:
        """Values with which ranks, degrees and batch would fit."""
        return advice_for_rule(data, rule)

    @property
    def ranks_per_node(self) -> int:
        """Ranks per node after defaulting."""
        return processes_per_node(self.to_plain())

    @property
    def world_size(self) -> int:
        """Ranks of the gang."""
        return self.num_nodes * self.ranks_per_node


class Restarts(Strict):
    """What is worth another attempt."""

    max_failures: Annotated[int, Field(ge=0, le=1000)] = 3
    """Attempts of one stage that may fail for reasons of its own (a crash, a bug) before the job fails. Whatever this
    says, a stage is not tried a third time once two of its attempts ran out of memory, exceeded the limit of their own
    disk, or named a command that is not there: with the same settings the next would end alike. Attempts with another
    end in between do not start that count anew."""
    max_disruptions: Annotated[int, Field(ge=0, le=10000)] = 20
    """Attempts of one stage that may be lost to the platform (preemption, node loss) before the job fails."""
    in_place: Annotated[int, Field(ge=0, le=100)] = 3
    """How often in a row failed ranks of a training are started anew in place: the same pods go on from the last
    checkpoint, without a new attempt. A checkpoint in between starts the count anew; steps alone do not, for they are
    lost with the next failure. After that, and when a pod is lost, the attempt ends and counts as failed. Exit codes 78
    and 143 are not restarted in place. 0 never does. A change holds from the next attempt on."""
    hang_timeout_seconds: Annotated[int, Field(ge=5, le=86400)] | None = None
    """A recipe's ranks hang when none of them has shown any sign of work for this long, or one was stopped (SIGSTOP)
    for this long; then their stacks are logged, and they are restarted in place. Where no step ends (imports,
    tokenizing, evaluating, saving) a phase may take longer, see docs/techniques/restarts.md. If it is set, it holds for
    the steps that a program of your own reports, too. None is 60, or ten times the longest step so far if that is
    more. A change holds from the next attempt on."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 2
    """Longest pause before the attempt that follows a failure; the first disruption costs none. For each further
    attempt lost within ten minutes of its start it doubles, up to maxBackoffSeconds; a job waits between a half and
    the whole of it, so that many do not come back at once. 0 restarts at once."""
    max_backoff_seconds: Annotated[int, Field(ge=0, le=86400)] = 300
    """Longest pause before any attempt. Time of a pause counts for activeDeadlineSeconds."""
    stall_timeout_seconds: Annotated[int, Field(ge=10, le=604800)] = 600
    """Restart the gang when no step was finished and no line was logged for this long. Where no step ends (imports,
    tokenizing, evaluations, checkpoints, compression) the built-in trainer logs a line every 5 seconds while it gets
    on."""
    startup_timeout_seconds: Annotated[int, Field(ge=10, le=604800)] | None = None
    """Longest time that a recipe's training may run until it reports its steps for the first time: importing, meeting
    ranks, tokenizing, loading a checkpoint. Then the gang is restarted, and the failure says which phase it was in; a
    restart goes on with the tokens made so far. Time before all replicas run is startTimeoutSeconds. None sets no limit
    but the stall timeout: how long is right depends on the size of data and model."""
    start_timeout_seconds: Annotated[int, Field(ge=1, le=604800)] | None = None
    """Longest time from an attempt's admission until all its replicas run; then the job fails and says what they
    waited for. Time in a queue does not count. None waits as long as it takes, which a busy cluster may well need."""
    force_delete_after_seconds: Annotated[int, Field(ge=1, le=604800)] | None = None
    """A pod that outlives its grace period by this long on a node that is gone or not ready is deleted by force, so
    that the gang can restart elsewhere. None never does: should the node still be alive behind a broken network, the
    pod goes on there, and two gangs might write to one storage."""


class Budget(Strict):
    """The most the job may cost, in the price book's currency, at list prices."""

    amount: Money
    """Money for the whole job: training, every attempt, and all variants."""
    on_exceeded: Literal["CheckpointAndSuspend", "Fail"] = "CheckpointAndSuspend"
    """CheckpointAndSuspend: save, stop, and wait for a larger amount. Fail: save, stop, and end the job. Such a stop
    gives pods at most 600 s to save, whatever terminationGracePeriodSeconds says."""
    on_unknown_price: Literal["Suspend", "Continue"] = "Suspend"
    """When something that is used, or asked for, has no price, or the price book is not there. Suspend: save, stop (or
    do not begin), and go on once there is a price; what was used without one then counts at that price. Continue: only
    what has a price counts. A price of 0 is a price."""


_OF_TEXTS = words_giving(SourceSettings, only=DOCUMENTS)
"""Data that a model of the Hugging Face library reads."""


def _cel_asks_gpu(resources: str) -> str:
    """Whether these resources ask for a GPU, as a CEL expression."""
    fields = (f"{resources}.{name}" for name in ("limits", "requests"))
    return "(" + " || ".join(f"(has({one}) && '{GPU_RESOURCE}' in {one})" for one in fields) + ")"


def _gpus_are_asked_for(spec: PlainData) -> bool:
    training = spec.get("train", {}).get("resourcesPerNode")
    asked = (variant.get("resources", training) for variant in spec["compress"] if variant["target"] == "GPU")
    return all(each is None or GPU_RESOURCE in effective_requests(each) for each in asked)


@one_of(train="what trains it", model="one that is there already")
class JobSpec(Strict):
    """What is to be trained, compressed and paid."""

    suspend: bool = False
    """True stops the job after a checkpoint and keeps it; false lets it go on from there."""
    train: Train | None = None
    """The training gang."""
    model: GivenModel | None = None
    """The model to compress, where none is trained."""
    compress: Annotated[list[Variant], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra=list_map_keys("name"),
    )
    """Variants to make of the model, each measured against it. Without a recipe, `evaluation` must say on what."""
    evaluation: CommandEvaluation | None = None
    """What the model that train.command leaves, or `model` names, is measured on. A recipe has its own data for
    that."""
    storage: Storage | None = None
    """Where checkpoints and artifacts live on a cluster. None means they are lost with the pods."""
    pods: PodOverrides | None = None
    """What is added to the pods of every stage: nodes, tolerations, variables, volumes. Not used on one machine."""
    restarts: Restarts = Restarts()
    """What is worth another attempt."""
    budget: Budget | None = None
    """The most the job may cost. None means no limit."""
    price_book_name: Name | None = None
    """PriceBook that turns hours into money. None counts hours only."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Seconds the job may be active in all, suspended time not counted; then it fails. None means no limit."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Seconds after its end when the job is deleted. None keeps it. Not used on one machine."""

    rules = (
        Rule(
            cel="!has(self.compress) || size(self.compress) == 0 || (has(self.train) && has(self.train.recipe)) || "
            "has(self.evaluation)",
            message="compress needs evaluation.data where train has no recipe: what its model is measured on",
            holds=lambda data: not data["compress"] or "recipe" in data.get("train", {}) or "evaluation" in data,
        ),
        Rule(
            cel="!has(self.evaluation) || !has(self.train) || !has(self.train.recipe)",
            message="evaluation must not be set with train.recipe, which has its own data and evaluation",
            holds=lambda data: "evaluation" not in data or "recipe" not in data.get("train", {}),
        ),
        Rule(
            cel=f"!has(self.evaluation) || has(self.model) || self.evaluation.data.type in {cel_list(_OF_TEXTS)}",
            message=f"evaluation.data.type must be {' or '.join(_OF_TEXTS)} for the model of a command, which is one "
            "of the Hugging Face library",
            holds=lambda data: (
                "evaluation" not in data or "model" in data or data["evaluation"]["data"]["type"] in _OF_TEXTS
            ),
        ),
        Rule(
            cel="!has(self.model) || has(self.train) || (has(self.compress) && size(self.compress) > 0 && "
            "self.compress.all(variant, has(variant.resources)))",
            message="compress must hold a variant where model is set, and each its own resources, for there is no "
            "train that asks for any",
            holds=lambda data: (
                "model" not in data
                or "train" in data
                or bool(data["compress"] and all("resources" in variant for variant in data["compress"]))
            ),
        ),
        Rule(
            cel="!has(self.budget) || has(self.priceBookName)",
            message="budget needs priceBookName: only what has a price can be limited",
            holds=lambda data: "budget" not in data or "priceBookName" in data,
        ),
        Rule(
            cel="!has(self.compress) || self.compress.all(v, v.target != 'GPU' || (has(v.resources) ? "
            f"{_cel_asks_gpu('v.resources')} : !has(self.train) || {_cel_asks_gpu('self.train.resourcesPerNode')}))",
            message=f"compress must ask for {GPU_RESOURCE} in the resources of a variant whose target is GPU",
            holds=_gpus_are_asked_for,
        ),
        METRIC_FITS_DATA,
        TRAINING_NEEDS_RECIPE,
        *(
            immutable(field, "create another job")
            for field in ("train", "model", "compress", "evaluation", "storage", "pods", "priceBookName")
        ),
    )

    @property
    def recipe(self) -> Recipe | None:
        """Settings of the built-in trainer; None if nothing is trained, or a command trains."""
        return None if self.train is None else self.train.recipe

    @property
    def command(self) -> list[str] | None:
        """The user's own program that trains, if there is one."""
        return None if self.train is None else self.train.command

    @property
    def image(self) -> str | None:
        """Image of the pods of every stage; None means the default one."""
        where = self.train or self.model
        return None if where is None else where.image

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order: training, if there is one, then the variants."""
        training = () if self.train is None else (TRAIN_STAGE,)
        return (*training, *(variant.name for variant in self.compress))

    def resources_of(self, stage: str) -> NodeResources:
        """What one replica of `stage` is asked for. A variant for a CPU shares what training is asked for, without its
        devices. Raises ValueError where nothing says it, which the rules refuse."""
        variant = self.variant(stage)
        if variant is not None and variant.resources is not None:
            return variant.resources
        if self.train is None:
            raise ValueError(f"{stage} must have its own resources where nothing is trained")
        asked = self.train.resources_per_node
        return asked.without_devices() if self.on_cpu(stage) else asked

    def on_cpu(self, stage: str) -> bool:
        """Whether `stage` makes a variant for a CPU, which needs no device."""
        variant = self.variant(stage)
        return variant is not None and variant.target == "CPU"

    def variant(self, stage: str) -> Variant | None:
        """The variant that `stage` makes; None for the training stage."""
        return next((variant for variant in self.compress if variant.name == stage), None)

    def runs_command(self, stage: str) -> bool:
        """Whether replicas of `stage` run the user's own program. Variants are made by ours."""
        return self.command is not None and self.variant(stage) is None

    def trains(self, stage: str) -> bool:
        """Whether replicas of `stage` go on from what they have saved: they take optimizer steps, or try many steps."""
        variant = self.variant(stage)
        return variant is None or variant.auto is not None or trains(variant.steps)

    def num_replicas(self, stage: str) -> int:
        """Replicas of `stage`."""
        return self._gang(stage)[0]

    def ranks_per_replica(self, stage: str) -> int:
        """Ranks of each replica of `stage`."""
        return self._gang(stage)[1]

    def _gang(self, stage: str) -> tuple[int, int]:
        """Replicas of `stage`, and ranks of each. A variant is made by one rank; where a step of it trains by as many
        as training has, if these can share out a batch, and one for each GPU of a replica of its own size."""
        train, variant = self.train, self.variant(stage)
        if variant is None:
            return (1, 1) if train is None else (train.num_nodes, train.ranks_per_node)
        if train is None or train.recipe is None or not trains(variant.steps):
            return 1, 1
        asked = self.resources_of(stage)
        as_training = asked == train.resources_per_node
        ranks = train.ranks_per_node if as_training else max(1, gpus_per_node(asked.to_plain()))
        fits = train.recipe.batch.global_batch_size % (train.num_nodes * ranks) == 0
        return (train.num_nodes, ranks) if fits else (1, 1)


class CostOptJob(Strict):
    """One job: its training gang, its compressed variants, and what they cost."""

    api_version: Literal["costopt.dev/v1alpha1"]
    """The version of this language."""
    kind: Literal["CostOptJob"]
    """The kind of document."""
    metadata: Metadata
    """Name, namespace, labels and annotations."""
    spec: JobSpec
    """What is asked for."""
    status: dict[str, Any] | None = None
    """Written by costopt; not read from a manifest."""
