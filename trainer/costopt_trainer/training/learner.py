"""One rank's model and optimizer, and how they take a step: a pure function of the recipe, the samples and the state.

Learner      the model over the ranks, its optimizer, and how far they have come
pinned       a batch in memory that a device reads by itself
on_device    a batch on the device
"""

import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from costopt.schema.memory import Memory
from costopt.schema.recipe import Recipe
from costopt_trainer.agreement import Question
from costopt_trainer.data import TrainingData
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel, moving_buffers
from costopt_trainer.models.loss import count_targets
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.phases import phase
from costopt_trainer.training import noise_scale
from costopt_trainer.training.averaged_weights import AveragedWeights
from costopt_trainer.training.carried_state import CarriedState
from costopt_trainer.training.compiling import compile_blocks
from costopt_trainer.training.decisions import Decisions
from costopt_trainer.training.first_epoch import FirstEpoch
from costopt_trainer.training.memory import save_memory
from costopt_trainer.training.micro_batch import Fitting, cut, in_recipe, try_pass
from costopt_trainer.training.optimizers import kept_by, make_optimizer, refuse_unfit, set_rate
from costopt_trainer.training.parallel import build_strategy, make_mesh
from costopt_trainer.training.parallel.rehearsal import rehearse
from costopt_trainer.training.parallel.strategy import Batch, Strategy, clip_gradients, clip_values
from costopt_trainer.training.precision import autocast_for, gradient_scaler, set_tf32, slow_precision
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.schedules import learning_rate
from costopt_trainer.training.snapshot import random_state, restore_random_state
from costopt_trainer.training.stopping import Stop


def smooth_labels(model: LayeredModel, percent: int | None) -> None:
    """Have `model` train with labels of which `percent` are spread over all classes; None: as they are.

    Raises NotRetryable("InvalidSettings") for a model that brings its own loss.
    """
    if percent is None:
        return
    if model.has_own_loss:
        raise NotRetryable(
            "InvalidSettings",
            "recipe.labelSmoothingPercent must be left out for a model that brings its own loss: smooth labels there",
        )
    model.label_smoothing = percent / 100


class Learner:
    """One rank's part of a model that learns."""

    def __init__(
        self, recipe: Recipe, shape: ModelShape, data: TrainingData, gang: ProcessGroup, stop: Stop, *, cache_dir: Path
    ) -> None:
        """The model has its initial weights, and no step is taken."""
        self.shape, self.data, self.cache_dir, self.gang, self.stop = shape, data, cache_dir, gang, stop
        self.fitting = Fitting(recipe, cache_dir, gang)
        self.recipe = recipe = in_recipe(recipe, self.fitting.size)
        self.mesh = make_mesh(recipe, gang)
        with phase("BuildingModel"):
            self.strategy = self.make_strategy()
        self.module = self.strategy.module
        # Looked up once: walking over all modules takes a hundredth of a small model's step.
        self.parameters = list(self.module.parameters())
        self.moving = moving_buffers(self.module)
        self.carried = CarriedState(self.strategy, data, recipe.seed)
        self.first_epoch = FirstEpoch(recipe, data, self.strategy, gang)
        self.optimizer = make_optimizer(recipe.optimizer, self.module)
        self.averaged = AveragedWeights(recipe.ema, self.strategy)
        split = self.strategy.gradients_are_split
        self.scaler = gradient_scaler(recipe.precision, gang.device, gradients_are_split=split)
        self.step = 0  # finished steps
        self.samples_consumed = 0  # over all ranks: the data position
        self.decisions = Decisions()  # because of evaluations and gradients so far
        self.rate = 0.0  # learning rate of the last step
        self.losses: list[Tensor] = []  # of the steps since the last read, on the device, each rank's own part
        self.is_step_to_end = Question(gang, stop)

    @property
    def batch_size(self) -> int:
        """Samples of the next step, over all ranks."""
        return noise_scale.size_of(self.recipe.batch, self.decisions.batch)

    @property
    def share_size(self) -> int:
        """Each rank takes an equal share of every global batch, in micro-batches: gradients accumulate over them."""
        return self.batch_size // self.strategy.data_size

    def make_model(self) -> LayeredModel:
        """What is to be trained, whole, on the CPU and in training mode; the same on all ranks."""
        return build_model(self.shape)

    def make_strategy(self) -> Strategy:
        """The model with its initial weights, distributed over the ranks."""
        recipe, gang = self.recipe, self.gang
        torch.manual_seed(recipe.seed)  # the same weights on all ranks
        model = self.make_model()
        refuse_unfit(recipe.optimizer, model)
        smooth_labels(model, recipe.label_smoothing_percent)
        save_memory(model, recipe.memory or Memory())
        if recipe.compile:
            compile_blocks(model, self.cache_dir, aloud=gang.rank == 0)
        # But different dropout on each, unless they work on the same samples.
        torch.manual_seed(zlib.crc32(f"{recipe.seed}/{self.mesh.random_rank}".encode()))
        set_tf32(recipe.precision)
        autocast = autocast_for(recipe.precision, gang.device)
        note = slow_precision(recipe.precision, gang.device)
        if note and gang.rank == 0:
            print(note, file=sys.stderr, flush=True)
        return build_strategy(recipe, model, self.mesh, autocast)

    def rehearse(self, go_on: Callable[[], bool]) -> None:
        """Take a step that leaves no trace, with micro-batches that fit in memory: see there."""
        whole = self.batches_at(self.samples_consumed, whole=True)  # later ones may be longer than the next
        batches = [on_device(batch, self.gang.device) for batch in whole]
        if not self.strategy.gradients_are_split and self.gang.world_size > 1:
            autocast = autocast_for(self.recipe.precision, self.gang.device)
            states = {} if self.optimizer.state else kept_by(self.recipe.optimizer, self.module)
            self.fitting.agree(
                lambda size: try_pass(self.module, cut(batches, size)[0], autocast, states.values()),
                self.keep_state(),
                self.module,
            )
        undo, as_in_a_step = self.keep_state(), bool(self.recipe.compile)
        self.fitting.fitted(
            lambda size: self.first_epoch.listening(
                lambda: rehearse(self.strategy, cut(batches, size), self.scaler, go_on, as_in_a_step=as_in_a_step)
            ),
            undo,
            self.module,
        )
        undo()

    def batches_at(self, position: int, *, whole: bool = False) -> list[Batch]:
        """This rank's micro-batches, on the host, of the step that starts at `position` consumed samples.

        Called from threads, ahead of the step: of what steps change it reads the size of micro-batches only, which may
        be outdated then.
        """
        share_size = self.share_size
        batches = self.data.train_batches(
            seed=self.recipe.seed,
            position=position + self.strategy.data_rank * share_size,
            count=share_size,
            batch_size=self.fitting.size,
            whole=whole,
        )
        return [pinned(batch, self.gang.device) for batch in batches]

    def learn(self, batches: list[Batch], num_targets: int, before_change: Callable[[], None]) -> bool:
        """One optimizer step on `batches`, this rank's share of a global batch with `num_targets` targets.

        `before_change` is called before the weights change. False: all were told to end between two micro-batches, and
        it is as if the step had never begun.
        """
        num_targets = max(num_targets, 1)  # of documents that are all empty there is nothing to tell
        rate = self.next_rate()
        set_rate(self.optimizer, rate)
        undo, size = self.keep_state(), self.batch_size
        small = self.measure_first(batches, undo)
        self.is_step_to_end.begin()
        # Sum of token losses over the number of targets of the global batch: each token weighs the same, for any number
        # of ranks and micro-batches.
        loss_sum = self.fitting.fitted(
            lambda size: self.first_epoch.listening(
                lambda: self.strategy.accumulate_gradients(
                    cut(batches, size), 1 / num_targets, self.scaler, lambda: not self.is_step_to_end.all_end()
                )
            ),
            undo,
            self.module,
        )
        if loss_sum is None:
            undo()
            return False
        self.scaler.unscale_(self.optimizer)
        decisions = self.decisions if small is None else self.measured(small, size)
        self.clip()
        before_change()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss_sum / num_targets)
        self.step += 1
        self.averaged.update(self.step)
        self.rate = rate
        self.first_epoch.step_ended(self.samples_consumed, size // self.strategy.data_size)
        self.samples_consumed += size
        self.decisions = decisions
        self.carried.step_ended(self.samples_consumed)
        return True

    def clip(self) -> None:
        """Make gradients as small as the recipe wants them. No sync point."""
        settings = self.recipe.optimizer
        if settings.gradient_clip_value is not None:
            clip_values(self.parameters, float(settings.gradient_clip_value))
        elif settings.largest_norm > 0:
            # In FP16 infinite gradients become NaN here; the scaler has seen them and skips the step.
            clip_gradients(self.parameters, settings.largest_norm, self.strategy.gradient_norm())

    def measure_first(self, batches: list[Batch], undo: Callable[[], None]) -> tuple[int, float] | None:
        """Samples and squared norm of the gradient of each rank's first micro-batch, as a step of its own; None if this
        step is not to be measured. Leaves no trace. A sync point."""
        if not noise_scale.is_due(self.recipe.batch, self.decisions.batch, self.step + 1):
            return None

        def first(size: int) -> tuple[int, float]:
            part = cut(batches, size)[:1]
            own = int(count_targets(part[0][1])) if self.strategy.holds_loss else 0
            [num_targets] = self.gang.sum_integers(own)
            self.strategy.accumulate_gradients(part, 1 / num_targets, self.scaler)
            norm = float(self.strategy.gradient_norm()) / self.scaler.get_scale()
            return len(part[0][0]) * self.strategy.data_size, norm**2

        found = self.fitting.fitted(first, undo, self.module)
        undo()
        return found

    def measured(self, small: tuple[int, float], size: int) -> Decisions:
        """The decisions after a step of `size` samples, whose gradient is there, unscaled. A sync point."""
        square = float(self.strategy.gradient_norm()) ** 2
        state = noise_scale.measured(self.recipe.batch, self.decisions.batch, self.step + 1, small, (size, square))
        return self.decisions.model_copy(update={"batch": state})

    def next_rate(self) -> float:
        """Learning rate of the next step."""
        return learning_rate(self.recipe, self.step + 1, self.decisions.plateau.reductions)

    def keep_state(self) -> Callable[[], None]:
        """Copy what an unfinished step changes; calling the result restores it. No sync point."""
        random, device, training = random_state(self.gang.device), self.gang.device, self.module.training
        kept = [(buffer, buffer.clone()) for buffer in self.moving]
        carried_as_before = self.carried.keep()

        def undo() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            self.module.train(training)
            restore_random_state(random, device)
            for buffer, value in kept:
                buffer.copy_(value)
            carried_as_before()

        return undo


def pinned(batch: Batch, device: torch.device) -> Batch:
    """The batch in memory that `device` reads by itself; made where it is prepared, for that copy takes time."""
    if device.type == "cpu":
        return batch
    with torch.cuda.device(device):  # a new thread would begin with the first GPU, and take memory there
        inputs, targets = batch
        return inputs.pin_memory(), targets.pin_memory()


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`. From pinned memory the host does not wait for the copy."""
    inputs, targets = batch
    return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
