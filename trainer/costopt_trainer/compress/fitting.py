"""Training within a compression step, by the trainer's own loop: for a while, at another rate, on the recipe's data.

fit          trains a model in place; all that a step calls
Course       for how long and how fast; all else is as the recipe has it
Fitted       what came of it
Objective    what is learned in place of the model's own loss, such as the answers of a teacher

Data, batch, precision, optimizer and what memory is saved are the recipe's. Left out is what speaks of the whole
training: epochs, early stopping, averages of weights, compiling, and which samples are selected. All training samples
are used, in a shuffled order of the step's own, a function of the recipe's seed and the position alone. Ranks share
each batch out (DDP), whatever degrees the training had.
"""

import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import torch
from torch import Tensor, nn

from costopt.schema.mixture import MixtureData
from costopt.schema.optimization import Schedule
from costopt.schema.parallelism import Parallelism
from costopt.schema.recipe import Batch, Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.step_reports import StepReports
from costopt_trainer.data import TrainingData
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.loop import LAST_SAVE_SECONDS, run_steps
from costopt_trainer.training.optimizers.groups import patterns_that_fit
from costopt_trainer.training.parallel.strategy import Batch as Samples
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.recipe_data import in_mixture
from costopt_trainer.training.training import Training

RATE_SHARE = Decimal("0.1")
"""Of the recipe's learning rate, where a course does not say: what was learned is to be mended, not learned anew."""
SAVE_EVERY_SECONDS = 60
"""A step is short beside a training: what a kill costs shall be, too."""


@dataclass(frozen=True)
class Course:
    """How a step trains."""

    steps: int
    """Optimizer steps, at least 1."""
    learning_rate: str | None = None
    """Peak learning rate. None: RATE_SHARE of the recipe's."""
    warmup_steps: int = 0
    """Steps in which the rate rises to it; less than `steps`."""
    schedule: Literal["Linear", "Cosine", "Constant"] = "Linear"
    """How it falls after them: to zero at the last step, or not at all."""
    part: str = "whole"
    """Name of this training within its step, of lower-case letters, digits and hyphens. A step that trains several
    times names each: they have checkpoints and an order of samples of their own."""


@dataclass(frozen=True)
class Fitted:
    """What came of it."""

    begun: int
    """Steps that an earlier attempt had taken."""
    steps: int
    """All of them."""
    ranks: int
    loss: float | None
    """Of the last step."""

    def __str__(self) -> str:
        """For the step's line in the log."""
        steps = f"{self.steps} steps" if not self.begun else f"steps {self.begun + 1} to {self.steps}"
        loss = "" if self.loss is None else f", training loss {self.loss:.4f}"
        return f"{steps} on {self.ranks} rank{'' if self.ranks == 1 else 's'}{loss}"


class Objective(nn.Module):
    """What is learned in place of the model's own loss. Its parameters are trained beside the model's, and dropped."""

    learns_from: str = ""
    """What tells it from one that learns something else: a checkpoint of another is refused."""

    @abstractmethod
    def loss_sum(self, model: LayeredModel, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a micro-batch, summed over its targets, 0-dim float32, as LayeredModel's.

        What it asks of a sample must not hang on the others, so that ranks and micro-batches make no difference.
        """


def fit(
    model: LayeredModel,
    run: StepRun,
    course: Course,
    *,
    objective: Objective | None = None,
    after_step: Callable[[], None] | None = None,
) -> Fitted:
    """Train `model`, a whole one on the CPU, in place.

    All ranks of `run.group` must call it with the same weights, and end with the same: on the CPU, in eval mode. It
    goes on from the newest checkpoint of this part of the step, to the same bits as without a stop; where that is of
    the last step, no step is taken. The state of the random generators stays.

    `after_step` is called after each optimizer step, before any checkpoint: what it does to the weights must follow
    from them, such as zeros that are put back. A stop ends with SystemExit(143) after a checkpoint. Raises NotRetryable
    for what does not fit.
    """
    recipe, _, _ = refuse_without_recipe(run)
    group = run.group
    recipe = recipe_of(recipe, course, model, ranks=group.world_size, number=run.number)
    devices = [] if group.device.type == "cpu" else [group.device]
    with torch.random.fork_rng(devices=devices), _to_be_trained(model, objective):
        learns_from = "" if objective is None else objective.learns_from
        training = StepTraining(model, recipe, run, part=course.part, after_step=after_step, learns_from=learns_from)
        training.resume()
        begun = training.step
        try:
            run_steps(training)
        except Exception:
            training.saves.let_end(LAST_SAVE_SECONDS)
            raise
        training.strategy.share_buffers()
    run.stop.in_steps = False
    [asked] = group.sum_integers(run.stop.asked)
    if asked:  # since the last step: its checkpoint is there
        raise SystemExit(EXIT_PREEMPTED)
    loss = training.progress.loss
    return Fitted(begun, recipe.steps, group.world_size, None if loss is None else float(loss))


def refuse_without_recipe(run: StepRun) -> tuple[Recipe, TrainingData, Checkpoints]:
    """What a training needs of `run`. Raises NotRetryable("InvalidSettings") for a model that no recipe trains."""
    if run.recipe is None or run.data is None or run.checkpoints is None:
        raise NotRetryable(
            "InvalidSettings",
            "a step that trains needs a model that a recipe of this job has trained: nothing is known of how this one "
            "was",
        )
    return run.recipe, run.data, run.checkpoints


def recipe_of(recipe: Recipe, course: Course, model: LayeredModel, *, ranks: int, number: int) -> Recipe:
    """The recipe of a course within the step with that `number`, for `model` as it is now.

    Raises NotRetryable("InvalidSettings") for ranks that cannot share out a batch.
    """
    size = recipe.batch.global_batch_size
    share, rest = divmod(size, ranks)
    if rest:
        raise NotRetryable(
            "InvalidSettings",
            f"recipe.batch.globalBatchSize must be a multiple of the {ranks} ranks that make the variant, not {size}",
        )
    most = min(recipe.batch.micro_batch_size, share)
    micro = next(samples for samples in range(most, 0, -1) if share % samples == 0)
    rate = course.learning_rate or str(Decimal(recipe.optimizer.learning_rate) * RATE_SHARE)
    data = recipe.data
    if data.mixture is not None:
        data = data.model_copy(update={"mixture": _as_at_its_end(data.mixture)})
    groups = patterns_that_fit(recipe.optimizer, model)
    saving = {
        "every_steps": min(recipe.checkpointing.every_steps, course.steps),
        "every_seconds": recipe.checkpointing.every_seconds or SAVE_EVERY_SECONDS,
    }
    return recipe.model_copy(
        update={
            "data": data,
            "batch": Batch(global_batch_size=size, micro_batch_size=micro),
            "total_steps": course.steps,
            "epochs": None,
            "optimizer": recipe.optimizer.model_copy(update={"learning_rate": rate, "groups": groups}),
            "schedule": Schedule(type=course.schedule, warmup_steps=course.warmup_steps),
            "ema": None,
            "parallelism": Parallelism(),
            "compile": None,
            "early_stopping": None,
            "checkpointing": recipe.checkpointing.model_copy(update=saving),
            "seed": zlib.crc32(f"{recipe.seed}/{number}/{course.part}".encode()) >> 1,
        }
    )


def _as_at_its_end(mixture: MixtureData) -> MixtureData:
    """The mixture with the weights that held in the last step of the training."""
    weights = {source.name: source.last_weight for source in mixture.sources}
    for stage in mixture.stages or ():
        weights.update(stage.weights)
    sources = [
        source.model_copy(update={"weight": weights[source.name], "end_weight": None}) for source in mixture.sources
    ]
    return mixture.model_copy(update={"sources": sources, "stages": None})


class StepTraining(Training):
    """A training of a model that is there, whose samples are loaded: no evaluation, and no artifact in the end."""

    def __init__(
        self,
        model: LayeredModel,
        recipe: Recipe,
        run: StepRun,
        *,
        part: str,
        after_step: Callable[[], None] | None,
        learns_from: str,
    ) -> None:
        _, self._samples, checkpoints = refuse_without_recipe(run)
        self._model, self._run, self._after_step = model, run, after_step
        self._learns_from = learns_from
        self._kept = checkpoints.part(part)
        super().__init__(recipe, self._kept.folder, run.group, run.meter.begin(), run.stop, job="")

    def open_checkpoints(self, recipe: Recipe, gang: ProcessGroup, job: str) -> Checkpoints:  # noqa: ARG002
        return self._kept

    def find_samples(self, recipe: Recipe, gang: ProcessGroup) -> tuple[Recipe, TrainingData]:  # noqa: ARG002
        return recipe, in_mixture(recipe, self._samples)

    def make_model(self) -> LayeredModel:
        return self._model

    def make_reporter(self) -> StepReports:
        return StepReports(self._run.pieces, self._run.say, self._run.group, self.recipe.steps)

    def evaluation_is_due(self) -> bool:
        """What comes of it is measured when all steps are done."""
        return False

    def take_step(self, batches: list[Samples], num_targets: int) -> None:
        super().take_step(batches, num_targets)
        if self._after_step is not None:
            with torch.no_grad():
                self._after_step()

    def identity(self) -> dict[str, Any]:
        """The name of the folder says the rest: see StepCheckpoints."""
        return {"data": self.data.fingerprint, "seed": self.recipe.seed, "teacher": self._learns_from}


class _Taught:
    """Comes before the class of a model: its loss is that of an objective, which is a part of it meanwhile."""

    objective: Objective

    def loss_sum(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """As LayeredModel's."""
        assert isinstance(self, LayeredModel)  # noqa: S101  it is both
        return self.objective.loss_sum(self, inputs, targets)


@contextmanager
def _to_be_trained(model: LayeredModel, objective: Objective | None) -> Iterator[None]:
    """`model` in training mode, with an objective; afterwards it is of the classes that it was of, in eval mode."""
    # Another class and not a wrapper, so that parameters keep their names; memory that is saved does so with layers.
    kinds = [(module, type(module)) for module in model.modules()]
    loss = model.chunked_loss, model.label_smoothing
    if objective is not None:
        model.__class__ = type(f"Taught{type(model).__name__}", (_Taught, type(model)), {})
        model.objective = objective
    try:
        model.requires_grad_(True).train()
        yield
    finally:
        for module, kind in kinds:
            module.__class__ = kind
        if objective is not None:
            del model.objective
        model.chunked_loss, model.label_smoothing = loss
        model.zero_grad(set_to_none=True)
        model.to("cpu").eval()
