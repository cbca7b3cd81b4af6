"""The built-in trainer's settings: model, data, batch, optimizer, schedule, precision, parallelism, checkpoints."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.augmentations import Augmentation
from costopt.schema.auto_batch import AutoBatch
from costopt.schema.base import Rule, Strict
from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import (
    DOCUMENTS,
    LABELLED_TEXT,
    augmentations_fit,
    data_fits_model,
    needs_classes,
    only_for_text,
    words_giving,
)
from costopt.schema.degrees import cel_degree
from costopt.schema.early_stopping import EarlyStopping
from costopt.schema.epochs import Epochs, epochs_rules
from costopt.schema.memory import Memory
from costopt.schema.mixture import mixture_rules
from costopt.schema.models import CEL_CARRIES_STATE, ModelSettings, carries_state
from costopt.schema.optimization import Ema, Optimizer, Schedule
from costopt.schema.optimization_rules import OPTIMIZATION_RULES
from costopt.schema.packing import boundaries_suit_model
from costopt.schema.parallelism import Parallelism
from costopt.schema.sample_rules import SAMPLE_RULES
from costopt.schema.selection import selection_rules
from costopt.schema.unions import one_of


class Batch(Strict):
    """How many samples an optimizer step sees, and how many fit in memory at once."""

    global_batch_size: Annotated[int, Field(ge=1, le=10**7)]
    """Samples per optimizer step over all ranks."""
    micro_batch_size: Annotated[int, Field(ge=1, le=10**6)]
    """Samples per forward pass of one rank. The rest of the rank's share is gradient accumulation."""
    auto: AutoBatch | None = None
    """Whether a larger global batch is chosen by measuring. None: it stays."""

    rules = (
        Rule(
            cel="!has(self.auto) || self.auto.largest >= self.globalBatchSize",
            message="auto.largest must be at least globalBatchSize",
            holds=lambda data: "auto" not in data or data["auto"]["largest"] >= data["globalBatchSize"],
        ),
        Rule(
            cel="self.globalBatchSize % self.microBatchSize == 0",
            message="globalBatchSize must be a multiple of microBatchSize",
            holds=lambda data: data["globalBatchSize"] % data["microBatchSize"] == 0,
        ),
    )


class Evaluation(Strict):
    """Loss on the held-out split."""

    every_steps: Annotated[int, Field(ge=1, le=10**8)] = 200
    """Steps between evaluations; the last step is always evaluated."""
    max_samples: Annotated[int, Field(ge=1, le=10**9)] = 512
    """Held-out samples per evaluation, spread evenly over the split and the same each time."""


class Checkpointing(Strict):
    """Saving model, optimizer, schedule, scaler, random states and data position."""

    every_steps: Annotated[int, Field(ge=1, le=10**8)] = 200
    """Steps between checkpoints; the last step is always saved."""
    every_seconds: Annotated[int, Field(ge=1, le=10**8)] | None = None
    """Seconds of training after which a checkpoint is saved whatever its step, counted from the last one's beginning.
    None: steps alone count."""
    keep_last: Annotated[int, Field(ge=2, le=1000)] = 2
    """Newest checkpoints kept. At least 2, so that a damaged newest one has one before it."""
    keep_best: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Besides the newest, keep this many of those with the lowest validation loss, or the best earlyStopping.metric: of
    steps that were evaluated as well as saved. None: none, or one where earlyStopping.restoreBest needs it. Without
    that the trained model is that of the last step all the same."""
    mode: Literal["Async", "Sync"] = "Async"
    """Async: training goes on while a checkpoint is written, which takes as much host memory again as model and
    optimizer have; one that is due meanwhile waits for it. Sync: training waits."""


@one_of(total_steps="steps", epochs="times through the training samples")
class Recipe(Strict):
    """All settings of the built-in trainer."""

    model: ModelSettings
    """Which model to train."""
    data: DataSettings
    """Where samples come from."""
    batch: Batch
    """Global and micro-batch size."""
    total_steps: Annotated[int, Field(ge=1, le=10**8)] | None = None
    """Optimizer steps in all."""
    epochs: Epochs | None = None
    """How often each training sample is seen, such as 3 or "1.5": as many whole steps as there are in so many samples.
    Of a Mixture an epoch is as many samples as all sources have."""
    optimizer: Optimizer = Optimizer()
    """What turns gradients into steps."""
    schedule: Schedule = Schedule()
    """Learning-rate schedule."""
    ema: Ema | None = None
    """Whether an average of the weights is evaluated and becomes the trained model. None means that the weights of the
    last step do."""
    label_smoothing_percent: Annotated[int, Field(ge=1, le=99)] | None = None
    """Percent of each target that is spread evenly over all classes or tokens while training (label smoothing, arXiv
    1512.00567). The training loss that is reported has it, the validation loss does not. None means none."""
    precision: Literal["FP32", "TF32", "BF16", "FP16"] = "FP32"
    """FP32; TF32: the same with factors of matrix products rounded to 10 bits, on GPUs that have it; BF16: automatic
    mixed precision in bfloat16; FP16: the same in float16 with loss scaling. Weights and optimizer state stay FP32."""
    parallelism: Parallelism = Parallelism()
    """How the ranks share the work."""
    compile: bool | None = None
    """Whether layers are compiled (torch.compile), each by itself, before the first step. It takes from seconds to
    minutes, for which the image needs a C++ compiler; later attempts find what was compiled on the job's storage. None
    means false."""
    memory: Memory | None = None
    """What training does to need less memory. None means its defaults."""
    evaluation: Evaluation = Evaluation()
    """When and on how much held-out data to evaluate."""
    early_stopping: EarlyStopping | None = None
    """When training ends before its last step. None: never."""
    checkpointing: Checkpointing = Checkpointing()
    """When to save, and how many to keep."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of initial weights, sample order and dropout."""

    rules = (
        only_for_text("transforms", "changes of text", DataSettings),
        data_fits_model(ModelSettings, DataSettings),
        *OPTIMIZATION_RULES,
        needs_classes("earlyStopping", "metric", ["Accuracy", "MacroF1"], DataSettings),
        augmentations_fit(ModelSettings, Augmentation),
        *selection_rules(
            words_giving(DataSettings, but=DOCUMENTS), labelled_text=words_giving(DataSettings, only=(LABELLED_TEXT,))
        ),
        Rule(
            cel=f"!{CEL_CARRIES_STATE} || !has(self.data.augmentations)",
            message="data.augmentations must not be set with model.lstm.carryState, whose samples go on from one "
            "another",
            holds=lambda data: not carries_state(data["model"]) or not data["data"].get("augmentations"),
        ),
        Rule(
            cel="!has(self.batch.auto) || !has(self.totalSteps) || "
            "self.batch.auto.afterSteps + self.batch.auto.measureSteps < self.totalSteps",
            message="batch.auto: afterSteps and measureSteps together must be less than totalSteps",
            holds=lambda data: (
                "auto" not in data["batch"]
                or data["batch"]["auto"]["afterSteps"] + data["batch"]["auto"]["measureSteps"] < data["totalSteps"]
            ),
        ),
        Rule(
            cel=f"!has(self.batch.auto) || {cel_degree('self', 'pipeline')} == 1 && !{CEL_CARRIES_STATE}",
            message="batch.auto must not be set with parallelism.pipeline, whose micro-batches are fixed, nor with "
            "model.lstm.carryState, whose lanes are",
            holds=lambda data: (
                "auto" not in data["batch"]
                or (data["parallelism"]["pipeline"] == 1 and not carries_state(data["model"]))
            ),
        ),
        Rule(
            cel=f"!{CEL_CARRIES_STATE} || {cel_degree('self', 'shard')} == 1 && {cel_degree('self', 'pipeline')} == 1",
            message="parallelism.shard and parallelism.pipeline must be 1 with model.lstm.carryState, since each rank "
            "carries the states of all layers: share the work with dataParallel",
            holds=lambda data: (
                not carries_state(data["model"]) or data["parallelism"]["shard"] == data["parallelism"]["pipeline"] == 1
            ),
        ),
        *epochs_rules,
        *SAMPLE_RULES,
        *mixture_rules,
        *boundaries_suit_model,
    )

    @property
    def steps(self) -> int:
        """Optimizer steps in all. Raises ValueError where epochs are asked for and the data is not known yet."""
        if self.total_steps is None:
            raise ValueError("how many steps a number of epochs is follows from the data")
        return self.total_steps
